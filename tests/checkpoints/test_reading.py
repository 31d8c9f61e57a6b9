import builtins
import contextlib
import functools
import io
import os
import pickle
import tarfile
import threading
import uuid
from collections import OrderedDict
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric
from mmengine.logging import HistoryBuffer
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from safetensors.torch import save_file
from torch import nn

from mmhcgnet.checkpoints import (
    Checkpoint,
    encode_checkpoint,
    read_checkpoint,
    use_safe_loader,
    write_atomically,
)
from mmhcgnet.cli.preflight import check_checkpoint
from mmhcgnet.convert.matching import best_accuracy
from mmhcgnet.errors import MissingFileError, UsageError

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "a.num": torch.tensor(7)}


def save(path, checkpoint, legacy=False):
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    return str(path)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_what_the_authors_save_is_read(tmp_path, legacy):
    checkpoint = dict(net=WEIGHTS, epoch=629, best_acc=np.float64(78.5), acc=np.float32(0.25))
    checkpoint.update(optimizer=dict(state={0: dict(buffer=torch.ones(2))}, param_groups=[{}]))
    checkpoint.update(counts=[np.int64(-3), np.uint8(200), np.bool_(True), np.float16(2)])
    read = read_checkpoint(save(tmp_path / "a.pth.tar", checkpoint, legacy))
    assert torch.equal(read["net"]["a.weight"], WEIGHTS["a.weight"])
    assert [read["epoch"], read["best_acc"], read["acc"], *read["counts"]] == [
        *(629, 78.5, 0.25, -3, 200, True, 2)
    ]
    assert type(read["best_acc"]) is float and type(read["counts"][0]) is int


@pytest.mark.parametrize("module", [b"numpy.core", b"numpy._core"], ids=["1", "2"])
def test_numbers_of_both_versions_of_numpy_are_read(tmp_path, module):
    path = save(tmp_path / "a.pth", dict(acc=np.float64(78.5)), legacy=True)
    content = (tmp_path / "a.pth").read_bytes().replace(b"numpy._core", b"numpy.core")
    assert b"numpy.core.multiarray\nscalar" in content
    (tmp_path / "a.pth").write_bytes(content.replace(b"numpy.core", module))
    assert read_checkpoint(path) == dict(acc=78.5)


class Model(BaseModel):
    """The least that MMEngine trains and tests."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

    def forward(self, inputs, mode="tensor"):
        outputs = self.layers(inputs)
        return dict(loss=outputs.square().mean()) if mode == "loss" else [outputs]


class Score(BaseMetric):
    """A metric of NumPy's, as the toolboxes' are, which falls."""

    default_prefix = "accuracy"

    def __init__(self):
        super().__init__()
        self.values = [np.float64(75.5), np.float64(50.0)]

    def process(self, data_batch, data_samples):
        self.results.append(None)

    def compute_metrics(self, results):
        return dict(top1=self.values.pop(0))


def loader():
    return dict(
        batch_size=2,
        num_workers=0,
        collate_fn=dict(type="default_collate"),
        dataset=[dict(inputs=torch.randn(2)) for _ in range(4)],
        sampler=dict(type="DefaultSampler", shuffle=False),
    )


def make_runner(folder, **options):
    return Runner(
        model=Model(),
        work_dir=str(folder),
        experiment_name=uuid.uuid4().hex,
        train_dataloader=loader(),
        val_dataloader=loader(),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        val_evaluator=[Score()],
        optim_wrapper=dict(optimizer=dict(type="AdamW", lr=0.01)),
        param_scheduler=[
            dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=2),
            dict(type="CosineRestartLR", periods=[1, 1], restart_weights=[1, 1], eta_min=0),
            dict(type="OneCycleLR", eta_max=0.02, total_steps=4, by_epoch=False),
            dict(type="ReduceOnPlateauLR", monitor="accuracy/top1", rule="greater"),
        ],
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", interval=1, save_best="auto")),
        custom_hooks=[dict(type="EMAHook")],
        log_level="ERROR",
        **options,
    )


def plain(value):
    """What can be compared: histories and functions by what they hold and are called."""
    if isinstance(value, HistoryBuffer):
        return [list(part) for part in value.data], value.max_length
    if isinstance(value, dict):
        return {key: plain(child) for key, child in value.items()}
    if isinstance(value, list):
        return [plain(child) for child in value]
    return getattr(value, "__qualname__", value)


def test_what_mmengine_saves_is_read(tmp_path):
    """All that a Runner saves: optimiser, schedulers, averaged weights, history and scores."""
    make_runner(tmp_path).train()
    path = str(tmp_path / "epoch_2.pth")
    saved, read = torch.load(path, weights_only=False), read_checkpoint(path)
    assert read.keys() == saved.keys()
    assert {"optimizer", "param_schedulers", "ema_state_dict", "message_hub"} <= read.keys()
    assert read["meta"] == saved["meta"] and read["meta"]["epoch"] == 2
    for key in ("state_dict", "ema_state_dict"):
        assert read[key].keys() == saved[key].keys()
        assert all(torch.equal(read[key][name], saved[key][name]) for name in saved[key])
    assert torch.equal(
        read["optimizer"]["state"][0]["exp_avg"], saved["optimizer"]["state"][0]["exp_avg"]
    )
    # Also the function by which OneCycleLR anneals.
    assert plain(read["param_schedulers"]) == plain(saved["param_schedulers"])
    assert plain(read["message_hub"]) == plain(saved["message_hub"])
    histories = read["message_hub"]["log_scalars"].values()
    assert histories and all(type(history) is HistoryBuffer for history in histories)
    assert pickle.loads(pickle.dumps(read["message_hub"])).keys() == saved["message_hub"].keys()
    # The converter to the authors' layout states this one.
    assert best_accuracy(read) == 75.5 and type(best_accuracy(read)) is float


def test_what_was_read_goes_on(tmp_path):
    """The schedulers and the history of the log are as they would have been."""
    make_runner(tmp_path / "whole").train()
    use_safe_loader()
    start = str(tmp_path / "whole" / "epoch_1.pth")
    resumed = make_runner(tmp_path / "resumed", load_from=start, resume=True)
    resumed.train()
    whole, other = (
        torch.load(tmp_path / folder / "epoch_2.pth", weights_only=False)
        for folder in ("whole", "resumed")
    )
    assert plain(other["param_schedulers"]) == plain(whole["param_schedulers"])
    log = other["message_hub"]["log_scalars"]
    assert {key: len(value.data[0]) for key, value in log.items()} == {
        key: len(value.data[0]) for key, value in whole["message_hub"]["log_scalars"].items()
    }


def test_arrays_of_numbers_are_read(tmp_path):
    """MMPose keeps some in the description of a data set."""
    arrays = [np.arange(6.0).reshape(2, 3), np.float32([]), np.asfortranarray(np.eye(3)[:2])]
    arrays += [np.array(7), np.array([True, False]), np.arange(3, dtype=">i4")]
    nested = dict(a=(arrays[0], [arrays[1]]), b=[(arrays[2],)], c=arrays[3:], again=arrays[0])
    nested["itself"] = nested["b"]
    read = read_checkpoint(save(tmp_path / "a.pth", dict(meta=nested)))["meta"]
    for one, other in zip(
        (read["a"][0], read["a"][1][0], read["b"][0][0], *read["c"]), arrays, strict=True
    ):
        assert type(one) is np.ndarray and np.array_equal(one, other)
        assert one.dtype == other.dtype.newbyteorder("=") and one.flags.writeable
    assert read["again"] is read["a"][0] and read["itself"] is read["b"]


def dict_with(**attributes):
    part = OrderedDict(a=1)
    for name, value in attributes.items():
        setattr(part, name, value)
    return part


def test_objects_of_a_file_keep_no_attributes(tmp_path):
    """One may hide a method, also of a tensor, which a pickle can build with attributes, too."""
    tensor = nn.Parameter(torch.arange(3.0))
    tensor.isfinite = torch.Size
    weights = dict_with(_metadata=OrderedDict({"": dict(version=1)}), pop=torch.Size)
    weights["tensor"] = tensor
    checkpoint = dict_with(get=np.ndarray, pop=3)
    checkpoint.update(state_dict=weights, again=weights, meta=[(dict_with(pop=np.ndarray),)])
    read = read_checkpoint(save(tmp_path / "a.pth", checkpoint))
    assert type(read) is OrderedDict and vars(read) == {}
    assert read["again"] is read["state_dict"]
    assert vars(read["state_dict"]) == dict(_metadata={"": dict(version=1)})
    assert read["meta"] == [(OrderedDict(a=1),)] and vars(read["meta"][0][0]) == {}
    assert type(read["state_dict"]["tensor"]) is nn.Parameter
    assert torch.equal(read["state_dict"]["tensor"], torch.arange(3.0))
    assert vars(read["state_dict"]["tensor"]) == {}


@pytest.mark.parametrize(
    "value",
    [
        np.ndarray,
        torch.Tensor,
        torch._utils._rebuild_tensor_v2,
        {np.ndarray: 1},
        [({"a": {torch.Tensor}},)],
        dict_with(_metadata=[1]),
        dict_with(_metadata={"": 3}),
    ],
    ids=["array", "tensor", "function", "key", "set", "metadata-list", "metadata-number"],
)
def test_classes_and_functions_are_no_data(tmp_path, value):
    with pytest.raises(UsageError):
        read_checkpoint(save(tmp_path / "a.pth", dict(state_dict=WEIGHTS, extra=value)))


class Payload:
    """Calls a function with arguments when a plain pickle is loaded."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


PAYLOADS = {
    "os.system": lambda mark: Payload(os.system, f"touch {mark}"),
    "eval": lambda mark: Payload(eval, f"open({mark!r}, 'w')"),
    "exec": lambda mark: Payload(exec, f"open({mark!r}, 'w')"),
    "open": lambda mark: Payload(open, mark, "w"),
    "os.mkdir": lambda mark: Payload(os.mkdir, mark),
    "torch.load": lambda mark: Payload(torch.load, mark),
    "numpy.object": lambda mark: Payload(
        np.float64().__reduce__()[0], np.dtype("O"), Payload(os.mkdir, mark)
    ),
    "numpy.memmap": lambda mark: Payload(np.memmap, mark, "uint8", "w+", 0, (1,)),
}


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("payload", PAYLOADS)
def test_what_would_run_is_refused_and_named(tmp_path, payload, legacy):
    mark = str(tmp_path / "mark")
    checkpoint = dict(net=WEIGHTS, epoch=PAYLOADS[payload](mark))
    path = save(tmp_path / "a.pth", checkpoint, legacy)
    with pytest.raises(UsageError, match="is refused and nothing in it was run: it asks for ") as e:
        read_checkpoint(path)
    assert "\n" not in str(e.value) and path in str(e.value)
    assert not os.path.exists(mark)


def test_the_asked_for_is_named(tmp_path):
    path = save(tmp_path / "a.pth", dict(epoch=Payload(builtins.eval, "1")))
    with pytest.raises(UsageError, match=r"it asks for (builtins\.)?eval, but weights need only "):
        read_checkpoint(path)
    path = save(tmp_path / "a.pth", dict(epoch=Payload(os.system, "true")))
    with pytest.raises(UsageError, match=r"it asks for (posix|nt)\.system,"):
        read_checkpoint(path)


ARRAY = dict(
    objects=lambda array: np.array([{}, 1], dtype=object),
    fields=lambda array: np.zeros(2, dtype=[("a", "f4"), ("b", "O")]),
    dates=lambda array: array.astype("M8[s]"),
)


@pytest.mark.parametrize("kind", ARRAY)
def test_other_arrays_than_of_numbers_and_strings_are_refused(tmp_path, kind):
    path = save(tmp_path / "a.pth", dict(extra=ARRAY[kind](np.ones(2))))
    with pytest.raises(UsageError, match=r"it asks for numpy\.dtype,"):
        read_checkpoint(path)


class State:
    """An object that is made by a function and gets a state."""

    def __init__(self, *parts):
        self.parts = parts

    def __reduce__(self):
        return self.parts


RECONSTRUCT = np.ones(1).__reduce__()[0]
NUMBER = np.dtype("f8")
BROKEN = {
    "too few bytes": (1, (9,), NUMBER, False, b"12345678"),
    "too many bytes": (1, (1,), NUMBER, False, b"1234567812345678"),
    "negative shape": (1, (-1, -1), NUMBER, False, b"12345678"),
    "no shape": (1, "shape", NUMBER, False, b"12345678"),
    "no type": (1, (1,), None, False, b"12345678"),
    "no bytes": (1, (1,), NUMBER, False, [1] * 8),
    "no state": 7,
    "another byte order": (
        1,
        (1,),
        State(np.dtype, ("f8", False, True), (3, "O,")),
        False,
        b"1" * 8,
    ),
}


@pytest.mark.parametrize("state", BROKEN)
def test_an_array_that_is_none_is_refused(tmp_path, state):
    array = State(RECONSTRUCT, (np.ndarray, (0,), b"b"), BROKEN[state])
    path = save(tmp_path / "a.pth", dict(extra=array))
    with pytest.raises(
        UsageError, match=r"cannot be read: it is damaged|asks for numpy\.(dtype|ndarray)"
    ):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "owner", [torch.ones(1), np.ndarray, dict], ids=["tensor", "array", "dict"]
)
def test_attributes_of_other_things_are_refused(tmp_path, owner):
    path = save(tmp_path / "a.pth", dict(extra=Payload(getattr, owner, "shape")))
    with pytest.raises(UsageError, match=r"it asks for (builtins\.)?(getattr|dict),"):
        read_checkpoint(path)


def test_the_functions_of_a_history_are_this_processs_own(tmp_path):
    """A file could replace them, for all histories."""
    before = dict(HistoryBuffer._statistics_methods)
    history = HistoryBuffer([1.0, 2.0], [1, 1])
    history.__dict__["_statistics_methods"] = dict(mean=Payload(getattr, HistoryBuffer, "max"))
    read = read_checkpoint(save(tmp_path / "a.pth", dict(extra=history)))["extra"]
    assert read.statistics("mean") == 1.5 and HistoryBuffer._statistics_methods == before


def test_an_archive_by_tar_is_refused(tmp_path):
    path = tmp_path / "a.pth.tar"
    with tarfile.open(path, "w") as archive:
        content = pickle.dumps(Payload(os.mkdir, str(tmp_path / "mark")), protocol=2)
        info = tarfile.TarInfo("storages")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(UsageError, match="is a tar archive"):
        read_checkpoint(str(path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(tmp_path, share, legacy):
    path = save(tmp_path / "a.pth", dict(net={"a": torch.ones(500)}), legacy)
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match="damaged or cut short"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [b"<html>404</html>", b"{}", b"\x80\x02.", os.urandom(100), pickle.dumps({"a": 1})],
    ids=["html", "json", "empty", "random", "dict"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"The checkpoint {path} cannot be read: "):
        read_checkpoint(str(path))


def test_no_file_and_no_dict(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: .*No such file"):
        read_checkpoint(str(tmp_path / "absent.pth"))
    with pytest.raises(UsageError, match="cannot be read: .*directory"):
        read_checkpoint(str(tmp_path))
    with pytest.raises(UsageError, match="holds a list instead of weights"):
        read_checkpoint(save(tmp_path / "a.pth", [torch.ones(1)]))


# MMEngine's names of checkpoints


def load(name):
    return CheckpointLoader.load_checkpoint(name, map_location="cpu")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves a folder: the folder, and the beginning of its URLs."""
    (tmp_path / "served").mkdir()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("MMENGINE_HOME", str(tmp_path / "mmengine"))
    handler = functools.partial(SimpleHTTPRequestHandler, directory=str(tmp_path / "served"))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield tmp_path / "served", f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_every_scheme_of_mmengine_is_read_safely():
    use_safe_loader()
    modules = {loader.__module__ for loader in CheckpointLoader._schemes.values()}
    assert modules == {"mmhcgnet.checkpoints.sources"}


def test_the_text_of_a_config_is_left_out(tmp_path):
    path = save(
        tmp_path / "a.pth",
        dict(
            meta=dict(config="1", cfg="2", epoch=3),
            message_hub=dict(
                runtime_info=dict(cfg="4", seed=5), resumed_keys=dict(cfg=True), log_scalars={}
            ),
            state_dict=WEIGHTS,
        ),
    )
    use_safe_loader()
    read = load(path)
    assert read["meta"] == dict(epoch=3)
    assert read["message_hub"] == dict(runtime_info=dict(seed=5), resumed_keys={}, log_scalars={})


def test_local_files_are_found(tmp_path, monkeypatch):
    use_safe_loader()
    monkeypatch.setenv("HOME", str(tmp_path))
    save(tmp_path / "a.pth", dict(state_dict=WEIGHTS))
    assert load("~/a.pth").keys() == {"state_dict"}
    with pytest.raises(MissingFileError, match=r"The checkpoint absent\.pth does not exist"):
        load("absent.pth")


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_a_url_is_fetched_once(server, name):
    folder, url = server
    (folder / name).write_bytes(encode_checkpoint(dict(state_dict=WEIGHTS), name))
    use_safe_loader()
    for _ in range(2):
        assert load(f"{url}/{name}")["state_dict"].keys() == WEIGHTS.keys()
        (folder / name).unlink(missing_ok=True)
    assert os.path.exists(os.path.join(torch.hub.get_dir(), "checkpoints", name))


def test_what_cannot_be_fetched_is_told(server):
    folder, url = server
    use_safe_loader()
    with pytest.raises(UsageError, match=rf"{url}/absent\.pth cannot be fetched: .*404"):
        load(f"{url}/absent.pth")


@pytest.mark.parametrize("name", ["http://[::1/a.pth", "s3://bucket/a.pth"])
def test_names_that_lead_nowhere_are_told(name):
    use_safe_loader()
    with pytest.raises(UsageError, match="cannot be fetched: ") as error:
        load(name)
    assert name in str(error.value)


def test_what_was_fetched_and_is_none_is_not_kept(server):
    folder, url = server
    use_safe_loader()
    (folder / "a.pth").write_bytes(b"<html>log in</html>")
    with pytest.raises(UsageError, match="not a checkpoint of PyTorch"):
        load(f"{url}/a.pth")
    save(folder / "a.pth", dict(state_dict=WEIGHTS))
    assert load(f"{url}/a.pth")["state_dict"].keys() == WEIGHTS.keys()


def test_names_in_a_zoo_are_looked_up(server, monkeypatch):
    folder, url = server
    save(folder / "a.pth", dict(state_dict={"backbone.a": torch.ones(1), "head.a": torch.ones(1)}))
    os.makedirs(os.environ["MMENGINE_HOME"])
    save(os.path.join(os.environ["MMENGINE_HOME"], "local.pth"), dict(state_dict=WEIGHTS))
    known = dict(model=f"{url}/a.pth")
    for zoo in ("get_torchvision_models", "get_mmcls_models"):
        monkeypatch.setattr(f"mmhcgnet.checkpoints.sources.{zoo}", lambda: known)
    monkeypatch.setattr(
        "mmhcgnet.checkpoints.sources.get_external_models", lambda: dict(known, own="local.pth")
    )
    monkeypatch.setattr(
        "mmhcgnet.checkpoints.sources.get_deprecated_model_names", lambda: dict(old="model")
    )
    use_safe_loader()
    for name in ("torchvision://model", "modelzoo://model", "openmmlab://model"):
        assert len(load(name)["state_dict"]) == 2
    assert len(load("open-mmlab://old")["state_dict"]) == 2
    assert load("open-mmlab://own")["state_dict"].keys() == WEIGHTS.keys()
    assert load("mmcls://model")["state_dict"].keys() == {"a"}
    with pytest.raises(UsageError, match=r"no checkpoint torchvision://modle \(did you mean model"):
        load("torchvision://modle")
    with pytest.raises(UsageError, match="pavi://model cannot be read from there"):
        load("pavi://model")


def test_an_object_store_is_read(tmp_path, monkeypatch):
    class Store:
        @contextlib.contextmanager
        def get_local_path(self, name):
            yield save(tmp_path / "a.pth", dict(state_dict=WEIGHTS, name=name))

    monkeypatch.setattr("mmhcgnet.checkpoints.sources.get_file_backend", lambda *_, **__: Store())
    use_safe_loader()
    for name in ("s3://bucket/a.pth", "cluster:s3://bucket/a.pth", "petrel://bucket/a.pth"):
        assert load(name)["name"] == name


@pytest.mark.parametrize(
    ("name", "converter"),
    [
        ("module.features.hybridblock1.SMG1.conv1_1x1.norm.bias", "official_to_mmpretrain.py"),
        ("features.HybridBlock1.SMG1.conv1_1x1.norm.bias", "official_to_mmpretrain.py"),
        ("backbone.hybridblock1.0.conv1_1x1.bn1.bias", "official_to_mmdet.py"),
    ],
)
@pytest.mark.parametrize(
    "wrap", [dict, lambda w: dict(net=w, epoch=1), lambda w: dict(state_dict=w)]
)
def test_the_authors_layouts_are_told_with_their_converter(tmp_path, name, converter, wrap):
    path = save(tmp_path / "a.pth", wrap({name: torch.ones(64)}))
    with pytest.raises(UsageError, match=f"tools/model_converters/{converter} {path}`"):
        Checkpoint.open(path).require()


@pytest.mark.parametrize("wrap", [dict, lambda w: dict(net=w), lambda w: dict(state_dict=w)])
def test_other_layouts_pass(tmp_path, wrap):
    Checkpoint.open(save(tmp_path / "a.pth", wrap(WEIGHTS))).require()


@pytest.mark.parametrize("in_config", [False, True], ids=["plain", "deployed"])
@pytest.mark.parametrize("in_file", [False, True], ids=["of-plain", "of-deployed"])
def test_deployed_and_plain_are_told_apart_before_anything_is_built(tmp_path, in_file, in_config):
    name = "backbone.stages.0.0.squeeze1.norm." + ("low" if in_file else "weight")
    path = save(tmp_path / "a.pth", dict(state_dict={name: torch.ones(1)}))
    cfg = Config(dict(model=dict(backbone=dict(type="mmhcgnet.HCGNet", deploy=in_config))))
    if in_file == in_config:
        check_checkpoint(cfg, path)
    else:
        with pytest.raises(UsageError, match=f"{path} holds a .*deploy=True"):
            check_checkpoint(cfg, path)
    cfg.model.backbone.type = "ResNet"
    check_checkpoint(cfg, path)


def test_a_checkpoint_is_checked_before_anything_is_built(tmp_path):
    cfg = Config(dict(model=dict(type="ImageClassifier")))
    with pytest.raises(MissingFileError, match="absent.pth does not exist"):
        check_checkpoint(cfg, str(tmp_path / "absent.pth"))
    official = save(tmp_path / "a.pth", {"module.a.conv1_1x1.norm.bias": torch.ones(1)})
    with pytest.raises(UsageError, match="official_to_mmpretrain.py"):
        check_checkpoint(cfg, official)
    check_checkpoint(cfg, "https://example.com/a.pth")


# Writing


@pytest.mark.parametrize("name", ["a.pth", "a.safetensors"])
def test_written_is_what_is_read_and_the_same_every_time(tmp_path, name):
    checkpoint = dict(meta=dict(arch="B", epoch=629, accuracy=None), state_dict=WEIGHTS)
    path = str(tmp_path / "new" / "folder" / name)
    content = encode_checkpoint(checkpoint, path)
    assert content == encode_checkpoint(checkpoint, path)
    write_atomically(path, content)
    read = read_checkpoint(path)
    assert read["meta"] == checkpoint["meta"]
    assert read["state_dict"].keys() == WEIGHTS.keys()
    for key, tensor in WEIGHTS.items():
        assert torch.equal(read["state_dict"][key], tensor)
    assert os.listdir(tmp_path / "new" / "folder") == [name]


def test_safetensors_of_others_hold_tensors_alone(tmp_path):
    save_file(WEIGHTS, tmp_path / "a.safetensors", metadata=dict(format="pt"))
    assert set(read_checkpoint(str(tmp_path / "a.safetensors"))) == {"state_dict"}
    save_file(WEIGHTS, tmp_path / "a.safetensors", metadata=dict(mmhcgnet="[1]"))
    with pytest.raises(UsageError, match="cannot be read: its entry mmhcgnet was changed"):
        read_checkpoint(str(tmp_path / "a.safetensors"))


def test_a_missing_safetensors_is_one_sentence(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"a\.safetensors needs .*pip install safetensors"):
        encode_checkpoint(dict(state_dict=WEIGHTS), "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"b\.safetensors needs .*pip install safetensors"):
        read_checkpoint(str(tmp_path / "b.safetensors"))


def test_any_flipped_bit_in_safetensors_is_found(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(encode_checkpoint(dict(meta=dict(epoch=3), state_dict=WEIGHTS), str(path)))
    content = path.read_bytes()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= 1 << place % 8
        path.write_bytes(damaged)
        with pytest.raises(UsageError, match="a.safetensors (is damaged|cannot be read)"):
            read_checkpoint(str(path))


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, step):
    path = tmp_path / "a.pth"
    path.write_bytes(b"old")

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(OSError, match="no space left"):
        write_atomically(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.pth"]


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """First the file, then its new name, then the folder that holds the name."""
    steps = []
    fsync, replace = os.fsync, os.replace

    def note_fsync(descriptor):
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        steps.append("folder" if target == str(tmp_path) else "file")
        fsync(descriptor)

    def note_replace(source, target):
        steps.append("name")
        assert os.path.dirname(source) == os.path.dirname(target) == str(tmp_path)
        replace(source, target)

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(os, "replace", note_replace)
    write_atomically(str(tmp_path / "a.pth"), b"new")
    assert steps == ["file", "name", "folder"]
