import builtins
import io
import os
import pickle
import tarfile

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from mmengine.runner import Runner
from safetensors.torch import save_file
from torch import nn

from mmhcgnet.convert.matching import best_accuracy
from mmhcgnet.engine import (
    UsageError,
    check_not_official,
    encode_checkpoint,
    read_checkpoint,
    write_atomically,
)

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


def test_what_mmengine_saves_is_read(tmp_path):
    """All that a Runner saves: optimiser, schedulers, averaged weights, history and scores."""
    runner = Runner(
        model=Model(),
        work_dir=str(tmp_path),
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
        default_hooks=dict(checkpoint=dict(type="CheckpointHook", save_best="auto")),
        custom_hooks=[dict(type="EMAHook")],
        log_level="ERROR",
    )
    runner.train()
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
    assert len(read["param_schedulers"]) == 4
    # The converter to the authors' layout states this one.
    assert best_accuracy(read) == 75.5 and type(best_accuracy(read)) is float


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
    with pytest.raises(
        UsageError, match=r"it asks for (builtins\.)?eval, and weights need no more than"
    ):
        read_checkpoint(path)
    path = save(tmp_path / "a.pth", dict(epoch=Payload(os.system, "true")))
    with pytest.raises(UsageError, match=r"it asks for (posix|nt)\.system,"):
        read_checkpoint(path)


def test_stand_ins_do_nothing(tmp_path):
    """Of what MMEngine's history names, a file gets neither the functions nor the arrays."""
    calls = dict(attribute=Payload(getattr, torch.ones(1), "shape"), array=np.ones(3))
    read = read_checkpoint(save(tmp_path / "a.pth", calls))
    assert not isinstance(read["attribute"], torch.Size)
    assert not isinstance(read["array"], np.ndarray)


def test_an_archive_by_tar_is_refused(tmp_path):
    path = tmp_path / "a.pth.tar"
    with tarfile.open(path, "w") as archive:
        content = pickle.dumps(Payload(os.mkdir, str(tmp_path / "mark")), protocol=2)
        info = tarfile.TarInfo("storages")
        info.size = len(content)
        archive.addfile(info, io.BytesIO(content))
    with pytest.raises(UsageError, match="archive by tar"):
        read_checkpoint(str(path))
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.6, 0.9, 0.999])
def test_a_file_that_is_cut_short_is_refused(tmp_path, share, legacy):
    path = save(tmp_path / "a.pth", dict(net={"a": torch.ones(500)}), legacy)
    content = (tmp_path / "a.pth").read_bytes()
    (tmp_path / "a.pth").write_bytes(content[: int(share * len(content))])
    with pytest.raises(UsageError, match="damaged or cut short, or no checkpoint"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    "content", [b"<html>404</html>", b"{}", b"\x80\x02.", os.urandom(100), pickle.dumps({"a": 1})]
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_what_is_no_checkpoint_is_refused(tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=f"The checkpoint {path} cannot be read: "):
        read_checkpoint(str(path))


def test_an_old_pytorch_is_told_and_not_taken_for_a_damaged_file(tmp_path, monkeypatch):
    path = save(tmp_path / "a.pth", WEIGHTS)
    monkeypatch.delattr(torch.serialization, "add_safe_globals")
    with pytest.raises(UsageError, match=rf"{path} is not read: .* PyTorch 2\.4 or newer"):
        read_checkpoint(path)


def test_no_file_and_no_dict(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: .*No such file"):
        read_checkpoint(str(tmp_path / "absent.pth"))
    with pytest.raises(UsageError, match="cannot be read: .*directory"):
        read_checkpoint(str(tmp_path))
    with pytest.raises(UsageError, match="holds a list and no weights"):
        read_checkpoint(save(tmp_path / "a.pth", [torch.ones(1)]))


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
        check_not_official(path)


def test_other_checkpoints_and_urls_pass(tmp_path):
    check_not_official(save(tmp_path / "a.pth", dict(state_dict=WEIGHTS)))
    check_not_official(save(tmp_path / "a.pth", WEIGHTS))
    check_not_official("https://example.com/a.pth")


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
    with pytest.raises(UsageError, match="cannot be read: its entry mmhcgnet is no dict"):
        read_checkpoint(str(tmp_path / "a.safetensors"))


def test_safetensors_are_an_option(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args):
        if name.startswith("safetensors"):
            raise ImportError(name)
        return real(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(UsageError, match=r"a\.safetensors needs .*pip install 'mmhcgnet\[safe"):
        encode_checkpoint(dict(state_dict=WEIGHTS), "a.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"")
    with pytest.raises(UsageError, match=r"b\.safetensors needs .*pip install 'mmhcgnet\[safe"):
        read_checkpoint(str(tmp_path / "b.safetensors"))


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
