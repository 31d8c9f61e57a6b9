"""No checkpoint runs code: kinds of malicious files against every way in.

    python -m campaigns.payloads [--kinds N] [--entries N] [--seed S]

Each file is to make a marker, and is shown to do so by a reader that does not guard against it.
Then it is given to every script and function that takes a checkpoint: there must be no marker, and
but for the files in which only the text of a config is malicious, which load without it, the run
must end with one sentence and an exit code that is not zero.
"""

from __future__ import annotations

import argparse
import builtins
import codecs
import copyreg
import functools
import http.server
import importlib
import io
import os
import pickle
import random
import runpy
import shutil
import struct
import subprocess
import sys
import tarfile
import tempfile
import threading
import timeit
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import yaml
from helpers.configs import classifier, hcgnet
from helpers.scripts import Result
from helpers.warm import Warm
from mmengine.config import Config
from mmengine.logging import HistoryBuffer
from PIL import Image

from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.errors import UsageError

ROOT = Path(__file__).parents[1]
CONVERTERS = ROOT / "tools/model_converters"

CONFIG = f"""{classifier(hcgnet(growth_rates=(4, 8)), 14, classes=2)}
test_dataloader = dict(
    batch_size=2,
    num_workers=0,
    dataset=dict(
        type="CustomDataset",
        data_root="data",
        pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")],
    ),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
train_dataloader = test_dataloader
test_evaluator = dict(type="Accuracy", topk=(1,))
test_cfg = dict()
train_cfg = dict(by_epoch=True, max_epochs=1)
default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1))
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9))
"""
DETECTOR = """
default_scope = "mmdet"
model = dict(
    type="RetinaNet",
    backbone=dict(type="mmhcgnet.HCGNet", arch=dict(depths=(1, 1), growth_rates=(4, 8))),
    neck=dict(type="FPN", in_channels=[42], out_channels=8, num_outs=1),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=2,
        in_channels=8,
        stacked_convs=0,
        feat_channels=8,
        anchor_generator=dict(
            type="AnchorGenerator", ratios=[1.0], scales=[4.0], strides=[8]
        ),
    ),
    test_cfg=dict(),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="PackDetInputs")]
test_dataloader = dict(dataset=dict(type="CocoDataset", pipeline=pipeline))
"""
SCRIPT = """
import sys
from mmhcgnet.checkpoints import use_safe_loader
from mmhcgnet.cli import report_usage_errors

use_safe_loader()
with report_usage_errors():
    how, checkpoint = sys.argv[1:]
    if how == "init_detector":
        from mmdet.apis import init_detector
        init_detector("detector.py", checkpoint, device="cpu")
    elif how == "DetInferencer":
        from mmdet.apis import DetInferencer
        DetInferencer("detector.py", checkpoint, device="cpu")
    elif how == "DetInferencer-alone":
        from mmdet.apis import DetInferencer
        DetInferencer(weights=checkpoint, device="cpu")
    elif how == "get_model":
        from mmpretrain import get_model
        get_model("config.py", pretrained=checkpoint)
    elif how == "inferencer":
        from mmpretrain import ImageClassificationInferencer
        ImageClassificationInferencer("config.py", pretrained=checkpoint, classes=["a", "b"])
"""


class Call:
    """Calls a function, which another call may give, when it is unpickled."""

    def __init__(self, function: Callable, *args: object) -> None:
        self.call = function, args

    def __reduce__(self) -> tuple:
        return self.call

    def __call__(self) -> None:
        """Only functions are pickled as such."""


class State:
    """An object of a class, with a state."""

    def __init__(self, make: tuple, state: object) -> None:
        self.parts = *make, state

    def __reduce__(self) -> tuple:
        return self.parts


@dataclass
class Payload:
    """A kind of malicious file.

    Attributes:
        make: Makes the content of a file of a genuine checkpoint and a line of Python.
        suffix: The end of the file's name.
        trigger: Reads the file without guard.
        loads: Whether all but the malicious text is a checkpoint that may load.
        runs: Whether it runs anything; another kind of malice otherwise.
    """

    make: Callable[[dict, str], bytes]
    suffix: str = ".pth"
    trigger: Callable[[Path], object] = lambda path: torch.load(path, weights_only=False)
    loads: bool = False
    runs: bool = True


def saved(checkpoint: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer, **options)
    return buffer.getvalue()


def beside(call: Callable[[str], object], **options: object) -> Payload:
    """A genuine checkpoint with a call beside the weights."""
    return Payload(lambda genuine, line: saved(dict(genuine, extra=call(line)), **options))


def inside(place: str, call: Callable[[str], object] = lambda line: Call(exec, line)) -> Payload:
    """A genuine checkpoint with a call at a dotted place."""

    def make(genuine: dict, line: str) -> bytes:
        *keys, last = place.split(".")
        part = genuine
        for key in keys:
            part = part[int(key) if key.isdecimal() else key]
        part[last] = call(line)
        return saved(genuine)

    return Payload(make)


def config_text(*places: str) -> Payload:
    """A genuine checkpoint with a program where MMEngine saves the text of the config."""

    def make(genuine: dict, line: str) -> bytes:
        for place in places:
            *keys, last = place.split(".")
            functools.reduce(dict.__getitem__, keys, genuine)[last] = line
        return saved(genuine)

    def trigger(path: Path) -> None:
        part = torch.load(path, weights_only=False)
        for key in places[0].split("."):
            part = part[key]
        Config.fromstring(part, ".py")

    return Payload(make, trigger=trigger, loads=True)


def hidden(place: str, method: str) -> Payload:
    """Such a text in a dict whose attribute hides the method that would take the text out.

    Args:
        place: Where that dict is: ``""`` for the whole file, or a dotted place.
        method: The name of the attribute.
    """
    keys = place.split(".") if place else []
    text = config_text("meta.config", "message_hub.runtime_info.cfg")

    def make(genuine: dict, line: str) -> bytes:
        text.make(genuine, line)
        part = OrderedDict(functools.reduce(dict.__getitem__, keys, genuine))
        setattr(part, method, np.ndarray)  # which is allowed, and takes any arguments
        if not keys:
            return saved(part)
        functools.reduce(dict.__getitem__, keys[:-1], genuine)[keys[-1]] = part
        return saved(genuine)

    return replace(text, make=make)


def hidden_everywhere(genuine: dict, line: str) -> bytes:
    """Such a text in a file in which every method of every dict is hidden."""
    config_text("meta.config", "message_hub.runtime_info.cfg").make(genuine, line)

    def hide(part: object) -> object:
        if not isinstance(part, dict):
            return list(map(hide, part)) if isinstance(part, list) else part
        new = OrderedDict((key, hide(value)) for key, value in part.items())
        vars(new).update({name: np.ndarray for name in dir(dict) if not name.startswith("__")})
        return new

    return pickled(hide(genuine))


def pickled(checkpoint: object) -> bytes:
    """What ``torch.save`` would write if it did not ask the methods that are hidden."""
    buffer = io.BytesIO()
    # Their items are written by the methods of the class.
    copyreg.dispatch_table[OrderedDict] = lambda part: (
        OrderedDict, (), vars(part) or None, None, iter(OrderedDict.items(part))
    )  # fmt: skip
    try:
        torch.save(checkpoint, buffer)
    finally:
        del copyreg.dispatch_table[OrderedDict]
    return buffer.getvalue()


def paths(form: str) -> Payload:
    """A genuine checkpoint with paths of others' files wherever MMEngine or a hook reads a name.

    Args:
        form: What a path is made by, of the name of a folder beside the run's.
    """

    def make(genuine: dict, line: str) -> bytes:
        folder = Path(line.split("'")[1]).parent
        path = form.format(folder=folder)
        info = genuine["message_hub"]["runtime_info"]
        names = ("last_ckpt", "best_ckpt", "best_ckpt_accuracy/top1", "best_key", "experiment_name")
        info.update({**dict.fromkeys(info, path), **dict.fromkeys(names, path)})
        info.update(outdated_ckpts=[path, f"{path}/file"])
        info.update(keep_ckpt_ids=[path, f"/../{path}", 1, 2])
        genuine["message_hub"]["resumed_keys"].update(dict.fromkeys(info, True))
        for key in ("exp_name", "experiment_name", "time", "hook_msgs", "cfg", "config"):
            genuine["meta"][key] = path
        return saved(genuine)

    return Payload(make, loads=True, runs=False)


def two_directories(genuine: dict, line: str) -> bytes:
    """An archive whose last record points to another directory than that in front of it."""
    plain = {name: content for name, content in _records(saved(genuine)).items()}
    program = {name: content for name, content in plain.items()}
    (name,) = (name for name in plain if name.endswith("data.pkl"))
    program[name] = pickle.dumps(Call(exec, line), protocol=2)
    # The one is a program for TorchScript, by its name, and the longer one.
    plain[name.replace("data.pkl", "constants_pkl")] = b""
    program[name.replace("data.pkl", "constants.pkl")] = bytes(sum(map(len, plain.values())))
    (first, pointed), (second, real) = map(_stored, (program, plain))
    assert len(pointed) == len(real)
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, *[len(plain)] * 2, len(real), len(first), 0)
    real, start = bytearray(real), 0
    while start < len(real):
        lengths = struct.unpack_from("<3H", real, start + 28)
        (offset,) = struct.unpack_from("<L", real, start + 42)
        # Python's reader adds how much further the directory is than the last record says.
        struct.pack_into("<L", real, start + 42, offset + len(first) - len(second))
        start += 46 + sum(lengths)
    return first + pointed + second + bytes(real) + end


def _records(archive: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(archive)) as source:
        return {name: source.read(name) for name in source.namelist()}


def _stored(records: dict[str, bytes]) -> tuple[bytes, bytes]:
    """The records of an archive and its directory."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as target:
        for name, content in records.items():
            target.writestr(zipfile.ZipInfo(name), content)
        start = target.start_dir
    return buffer.getvalue()[:start], buffer.getvalue()[start:-22]


def unpickle_pointed(path: Path) -> object:
    """Unpickle what PyTorch's reader of archives finds."""
    reader = torch._C.PyTorchFileReader(str(path))
    assert "constants.pkl" in reader.get_all_records()
    return pickle.loads(reader.get_record("data.pkl"))


def by_attributes(line: str) -> Call:
    """``exec`` by the attributes of a class that MMEngine allows, from where all builtins are."""
    module = Call(getattr, Call(getattr, HistoryBuffer, "mean"), "__globals__")
    functions = Call(Call(getattr, module, "get"), "__builtins__")
    return Call(Call(Call(getattr, functions, "get"), "exec"), line)


def in_tar(genuine: dict, line: str) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name in ("storages", "tensors", "pickle"):
            content = pickle.dumps(Call(exec, line), protocol=2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def rewritten(genuine: dict, edit: Callable[[str, bytes], Iterator[tuple[str, bytes]]]) -> bytes:
    """A checkpoint's archive with other records."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved(genuine))) as source,
        zipfile.ZipFile(buffer, "w") as target,
    ):
        for name in source.namelist():
            for new_name, content in edit(name, source.read(name)):
                target.writestr(new_name, content)
    return buffer.getvalue()


def twice(genuine: dict, line: str) -> bytes:
    """Two records ``data.pkl``: readers differ in which one they take."""

    def edit(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
        yield name, content
        if name.endswith("data.pkl"):
            yield name, pickle.dumps(Call(exec, line), protocol=2)

    return rewritten(genuine, edit)


def with_records(genuine: dict, line: str) -> bytes:
    """Programs and a path out of the archive among the records, and a call in the weights."""
    genuine["state_dict"]["extra"] = Call(exec, line)

    def edit(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
        yield name, content
        if name.endswith("data.pkl"):
            folder = name.rpartition("/")[0]
            yield f"{folder}/code/__torch__.py", line.encode()
            yield f"{folder}/../../sitecustomize.py", line.encode()

    return rewritten(genuine, edit)


def torchscript(genuine: dict, line: str) -> bytes:
    def edit(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
        if name.endswith("data.pkl"):
            yield name.replace("data.pkl", "constants.pkl"), content
            content = pickle.dumps(Call(exec, line), protocol=2)
        yield name, content

    return rewritten(genuine, edit)


def too_large(genuine: dict, line: str) -> bytes:
    """A storage that claims to be much larger than its record, and a tensor that uses all of it."""
    del line

    def edit(name: str, content: bytes) -> Iterator[tuple[str, bytes]]:
        if name.endswith("data.pkl"):
            seven, many = b"K\x07", b"M\xff\x7f"
            assert content.count(seven) == 2
            content = content.replace(seven, many)
        yield name, content

    return rewritten(dict(state_dict=dict(a=torch.arange(7.0))), edit)


def bomb(genuine: dict, line: str) -> bytes:
    """A list of lists of lists, with 10 to the 30th elements if one counts them one by one."""
    del line
    extra: list = []
    for _ in range(30):
        extra = [extra] * 10
    return saved(dict(genuine, extra=extra))


def history(line: str) -> State:
    return State((HistoryBuffer, ()), dict(statistics_methods=dict(mean=Call(exec, line))))


def objects(line: str) -> np.ndarray:
    return np.array([Call(exec, line)], dtype=object)


def rebuilt(line: str) -> Call:
    return Call(torch._utils._rebuild_tensor_v2, Call(exec, line), 0, (1,), (1,), False, {})


def yaml_tag(genuine: dict, line: str) -> bytes:
    del genuine
    return f'!!python/object/apply:builtins.exec ["{line}"]'.encode()


def unpickle_record(path: Path) -> object:
    """Unpickle the program in an archive by tar or zip."""
    if tarfile.is_tarfile(path):
        with tarfile.open(path) as archive:
            return pickle.load(archive.extractfile("pickle"))
    with zipfile.ZipFile(path) as archive:
        (name,) = {name for name in archive.namelist() if name.endswith("data.pkl")}
        return pickle.loads(archive.read(name))  # of two, Python takes the last one


scalar = np.float64().__reduce__()[0]
PAYLOADS: dict[str, Payload] = {
    "exec": beside(lambda line: Call(exec, line)),
    "exec, legacy format": beside(
        lambda line: Call(exec, line), _use_new_zipfile_serialization=False
    ),
    "exec, protocol 4": beside(lambda line: Call(exec, line), pickle_protocol=4),
    "eval": beside(lambda line: Call(eval, line)),
    "os.system": beside(lambda line: Call(os.system, f'{sys.executable} -c "{line}"')),
    "subprocess": beside(lambda line: Call(subprocess.check_call, [sys.executable, "-c", line])),
    "open": beside(lambda line: Call(open, line.split("'")[1], "w")),
    "codecs.open": beside(lambda line: Call(codecs.open, line.split("'")[1], "w")),
    "os.mkdir": beside(lambda line: Call(os.mkdir, line.split("'")[1])),
    "shutil.copy": beside(lambda line: Call(shutil.copy, sys.executable, line.split("'")[1])),
    "getattr chain": beside(by_attributes),
    "getattr of a module": beside(
        lambda line: Call(Call(getattr, Call(importlib.import_module, "builtins"), "exec"), line)
    ),
    "__import__": beside(
        lambda line: Call(Call(getattr, Call(builtins.__import__, "builtins"), "exec"), line)
    ),
    "functools.partial": beside(lambda line: Call(Call(functools.partial, exec, line))),
    "functools.reduce": beside(lambda line: Call(functools.reduce, exec, [line, {}])),
    "map": beside(lambda line: Call(list, Call(map, exec, [line]))),
    "timeit": beside(lambda line: Call(timeit.timeit, line, "pass", timeit.default_timer, 1)),
    "runpy": beside(lambda line: Call(runpy._run_code, line, {})),
    "numpy.memmap": beside(
        lambda line: Call(np.memmap, line.split("'")[1], "uint8", "w+", 0, (1,))
    ),
    "numpy objects": beside(objects),
    "numpy scalar of objects": beside(lambda line: Call(scalar, np.dtype("O"), Call(exec, line))),
    "rebuild of a tensor": inside("state_dict.extra", rebuilt),
    "rebuild by type": inside(
        "state_dict.extra",
        lambda line: Call(torch._tensor._rebuild_from_type_v2, exec, torch.Tensor, (line,), {}),
    ),
    "in the weights": inside("state_dict.extra"),
    "in the meta": inside("meta.dataset_meta"),
    "in the optimizer": inside("optimizer.param_groups.0.lr"),
    "in the history": inside("message_hub.log_scalars.train/loss", history),
    "in the runtime info": inside("message_hub.runtime_info.seed"),
    "archive by tar": Payload(in_tar, ".pth.tar", unpickle_record),
    "pickle alone": Payload(
        lambda genuine, line: pickle.dumps(Call(exec, line)),
        trigger=lambda path: pickle.loads(path.read_bytes()),
    ),
    "two pickles": Payload(twice, trigger=unpickle_record),
    "other records": Payload(with_records),
    "TorchScript": Payload(torchscript, trigger=unpickle_record),
    "safetensors by name": Payload(
        lambda genuine, line: saved(Call(exec, line)), suffix=".safetensors"
    ),
    "YAML": Payload(yaml_tag, ".yaml", lambda path: yaml.unsafe_load(path.read_text())),
    "meta.config": config_text("meta.config"),
    "meta.cfg": config_text("meta.cfg"),
    "runtime_info.cfg": config_text("message_hub.runtime_info.cfg", "meta.config"),
    **{
        f"hidden {method} in {place or 'the file'}": hidden(place, method)
        for place, method in (
            ("", "get"),
            ("meta", "pop"),
            ("message_hub", "get"),
            ("message_hub.runtime_info", "pop"),
        )
    },
    "hidden everywhere": replace(config_text("meta.config"), make=hidden_everywhere),
    "two directories": Payload(two_directories, trigger=unpickle_pointed, loads=True),
    "absolute paths": paths("{folder}/victim"),
    "relative paths": paths("../victim"),
    "storage that is too large": Payload(too_large, runs=False),
    "bomb": Payload(bomb, loads=True, runs=False),
}


class Case:
    """A folder with all that the scripts need, and the ways in.

    Args:
        warm: What starts scripts.
        folder: An empty folder.
    """

    def __init__(self, warm: Warm, folder: Path) -> None:
        self.warm, self.folder = warm, folder
        (folder / "config.py").write_text(CONFIG)
        (folder / "detector.py").write_text(DETECTOR)
        (folder / "apis.py").write_text(SCRIPT)
        for label in ("one", "two"):
            (folder / "data" / label).mkdir(parents=True)
            for number in range(2):
                pixels = np.full((16, 16, 3), 60 * number, np.uint8)
                Image.fromarray(pixels).save(folder / "data" / label / f"{number}.png")
        result = self.run("train.py", "config.py", "--work-dir", "genuine")
        assert result.code == 0, result.out + result.err
        self.entries: dict[str, Callable[[str], Result]] = {
            "test": lambda file: self.run("test.py", "config.py", file),
            "test of a URL": lambda file: self.run("test.py", "config.py", f"{self.url}/{file}"),
            "load_from": lambda file: self.run(
                "train.py", "config.py", "--cfg-options", f"load_from={file}"
            ),
            "--resume PATH": lambda file: self.run("train.py", "config.py", "--resume", file),
            "--resume": self.resume,
            "Pretrained": lambda file: self.run(
                "train.py", "config.py", "--cfg-options",
                "model.backbone.init_cfg.type=Pretrained",
                "model.backbone.init_cfg.prefix=backbone",
                f"model.backbone.init_cfg.checkpoint={file}",
            ),
            **{
                name: functools.partial(self.convert, name)
                for name in (
                    "official_to_mmpretrain", "official_to_mmdet", "mmpretrain_to_official",
                )
            },
            "deploy": lambda file: self.convert("deploy", "config.py", file),
            **{
                name: functools.partial(self.run, "apis.py", name)
                for name in (
                    "init_detector", "DetInferencer", "DetInferencer-alone", "get_model",
                    "inferencer",
                )
            },
        }  # fmt: skip

    def run(self, script: str, *args: str) -> Result:
        """Run a script of the tools or of the folder."""
        path = self.folder / script if script == "apis.py" else ROOT / "tools" / script
        # Where PyTorch keeps what it has fetched.
        env = dict(TORCH_HOME=str(self.folder / "cache"))
        return self.warm.run(path, *args, cwd=self.folder, env=env)

    def resume(self, file: str) -> Result:
        """Resume from the newest in the folder."""
        work = self.folder / "resumed"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        shutil.copy(self.folder / file, work / "epoch_1.pth")
        (work / "last_checkpoint").write_text("resumed/epoch_1.pth")
        return self.run("train.py", "config.py", "--resume", "--work-dir", "resumed")

    def convert(self, name: str, *args: str) -> Result:
        """Run a converter."""
        return self.run(f"model_converters/{name}.py", *args, "converted.pth", "--force")

    def write(self, kind: str) -> tuple[str, Path]:
        """Write a file of a kind; its name, and the marker that it is to make."""
        payload, number = PAYLOADS[kind], list(PAYLOADS).index(kind)
        mark = self.folder / f"mark-{number}"
        genuine = torch.load(self.folder / "genuine/epoch_1.pth", weights_only=False)
        name = f"payload-{number}{payload.suffix}"
        (self.folder / name).write_bytes(payload.make(genuine, f"open('{mark}', 'w')"))
        return name, mark

    def try_entry(self, kind: str, entry: str) -> str | None:
        """Give a file to a way in.

        Returns:
            What went wrong, if anything did.
        """
        name, mark = self.write(kind)
        victim = self.folder / "victim"
        victim.mkdir(exist_ok=True)
        (victim / "file").touch()
        result = self.entries[entry](name)
        if mark.exists():
            mark.unlink()
            return "EXECUTED"
        if not (victim / "file").exists():
            return "DELETED"
        sentences = [line for line in result.err.splitlines() if line.startswith("error: ")]
        refused = result.code == 2 and len(sentences) == 1
        refused = refused and "Traceback" not in result.err
        if not refused and not PAYLOADS[kind].loads:
            return f"exit code {result.code}, {(result.out + result.err)[-1500:]}"
        return None


def bites(kind: str, folder: Path, genuine: dict) -> bool:
    """Whether a payload makes its marker when it is read without guard."""
    payload = PAYLOADS[kind]
    path, mark = folder / f"payload{payload.suffix}", folder / "mark"
    path.write_bytes(payload.make(genuine, f"open('{mark}', 'w')"))
    try:
        payload.trigger(path)
    except Exception as error:  # what comes after the call does not matter
        print(f"{kind}: {type(error).__name__} after the call", file=sys.stderr)
    found = mark.exists()
    if found:
        mark.rmdir() if mark.is_dir() else mark.unlink()
    return found


def read_in_threads(folder: Path, reads: int) -> list[str]:
    """Read good and malicious files in four threads at once; what went wrong."""
    good, bad, mark = folder / "good.pth", folder / "bad.pth", folder / "mark-threads"
    torch.save(dict(history=HistoryBuffer([1.0], [1]), number=np.float64(2)), good)
    # Another package allows what is malicious, which is to have no effect here.
    before = torch.serialization.get_safe_globals()
    torch.serialization.add_safe_globals([exec])
    bad.write_bytes(saved(dict(extra=Call(exec, f"open('{mark}', 'w')"))))
    problems = []

    def work() -> None:
        for _ in range(reads):
            try:
                if read_checkpoint(str(good))["number"] != 2:
                    problems.append("threads: another number")
            except UsageError as error:
                problems.append(f"threads: {error}")
            try:
                read_checkpoint(str(bad))
                problems.append("threads: EXECUTED" if mark.exists() else "threads: not refused")
            except UsageError:
                pass

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if set(torch.serialization.get_safe_globals()) != {*before, exec}:
        problems.append("threads: what PyTorch allows has changed")
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)
    return problems


@contextmanager
def serve(folder: Path) -> Iterator[str]:
    """Serve a folder on this machine; the beginning of its URLs."""

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: object) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def prepare(warm: Warm, folder: Path) -> Iterator[Case]:
    """A folder and a server, for as long as the files are tried."""
    with serve(folder) as url:
        case = Case(warm, folder)
        case.url = url
        yield case


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kinds", type=int, default=len(PAYLOADS), help="how many, at random")
    parser.add_argument("--entries", type=int, help="how many ways in for each, at random")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng = random.Random(args.seed)
    failures, runs = [], 0
    with (
        tempfile.TemporaryDirectory() as folder,
        Warm() as warm,
        prepare(warm, Path(folder)) as case,
    ):
        kinds = rng.sample(list(PAYLOADS), args.kinds)
        for number, kind in enumerate(kinds, 1):
            print(f"{number}/{len(kinds)} {kind}, {runs} runs", file=sys.stderr, flush=True)
            entries = list(case.entries)
            for entry in rng.sample(entries, args.entries or len(entries)):
                runs += 1
                if problem := case.try_entry(kind, entry):
                    failures.append(f"{kind} x {entry}: {problem}")
                    print(failures[-1], file=sys.stderr, flush=True)
        failures += read_in_threads(Path(folder), reads=100)
    executed = sum("EXECUTED" in failure or "DELETED" in failure for failure in failures)
    print(
        f"payloads: {len(kinds)} kinds x {len(entries)} ways in, {runs} runs, and 400 reads in "
        f"threads: {executed} executed or deleted, {len(failures) - executed} not refused as they "
        "should"
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
