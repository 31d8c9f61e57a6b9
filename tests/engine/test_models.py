"""Weights fit a model fully or are refused in one sentence."""

import re
from pathlib import Path

import pytest
import torch
from helpers.opened import OPENED, reads
from mmengine.config import Config

from mmhcgnet.engine.models import build_model, check_device, load_model
from mmhcgnet.errors import MissingFileError, UsageError

pytest.importorskip("mmpretrain.models")

PATH = "weights.pth"


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("tiny.py").touch()  # MMEngine reads what it names
    cfg = dict(
        default_scope="mmpretrain",
        model=dict(
            type="ImageClassifier",
            backbone=dict(
                type="mmhcgnet.HCGNet",
                arch=dict(depths=(1, 1), growth_rates=(8, 8), stem="cifar"),
            ),
            neck=dict(type="GlobalAveragePooling"),
            head=dict(type="LinearClsHead", num_classes=3, in_channels=20),
        ),
    )
    return Config(cfg, filename="tiny.py")


def weights_of(cfg):
    weights = build_model(cfg).state_dict()
    return {
        k: v.clone().normal_().abs() if v.is_floating_point() else v for k, v in weights.items()
    }


def test_every_tensor_is_the_files(cfg):
    weights = weights_of(cfg)
    averaged = dict(state_dict=weights, ema_state_dict=dict(steps=torch.tensor(3)))
    torch.save(averaged, PATH)
    model = load_model(cfg, PATH)
    assert not any(module.training for module in model.modules())
    for name, tensor in model.state_dict().items():
        assert tensor.equal(weights[name])
    torch.save({f"module.{name}": tensor for name, tensor in weights.items()}, PATH)
    assert load_model(cfg, PATH).state_dict()["head.fc.bias"].equal(weights["head.fc.bias"])


def test_the_file_is_read_once(cfg):
    torch.save(weights_of(cfg), PATH)
    OPENED.clear()
    load_model(cfg, PATH)
    assert reads(PATH) == 1


def test_a_network_with_buffers_of_integers(cfg):
    cfg.model.backbone = dict(
        type="SwinTransformer", img_size=32, window_size=2, patch_size=4,
        arch=dict(embed_dims=8, depths=[1, 1], num_heads=[1, 1]), out_indices=(1,),
    )  # fmt: skip
    cfg.model.head.in_channels = 16
    weights = weights_of(cfg)
    assert any(tensor.dtype == torch.int64 for tensor in weights.values())
    torch.save(weights, PATH)
    load_model(cfg, PATH)


MISFITS = {
    "missing": (lambda w: w.pop("head.fc.bias"), r"tensors: 1 missing \(head.fc.bias\); name"),
    "unknown": (lambda w: w.update(more=torch.ones(1)), r"1 unknown \(more\)"),
    "shape": (
        lambda w: w.update({"head.fc.bias": torch.ones(7)}),
        r"1 of another shape \(head.fc.bias \(7,\) instead of \(3,\)\)",
    ),
    "no tensor": (lambda w: w.update({"head.fc.bias": 3}), r"1 not loaded \(.*head.fc.bias"),
    "deployed": (lambda w: w.update({"a.squeeze1.norm.low": 3}), "holds a deployed HCGNet"),
    "official": (
        lambda w: w.update({"a.conv1_1x1.b": 3}),
        "in the layout of the authors.* convert it",
    ),
}


@pytest.mark.parametrize("case", MISFITS)
def test_what_does_not_fit_is_refused(cfg, case):
    change, sentence = MISFITS[case]
    weights = weights_of(cfg)
    change(weights)
    torch.save(weights, PATH)
    with pytest.raises(UsageError, match=sentence) as error_info:
        load_model(cfg, PATH)
    assert re.match("The checkpoint weights.pth ", str(error_info.value))
    assert "\n" not in str(error_info.value)


def test_what_is_not_there(cfg, monkeypatch):
    with pytest.raises(MissingFileError, match="weights.pth does not exist"):
        load_model(cfg, PATH)
    with pytest.raises(UsageError, match="from local files: fetch https://a/b.pth"):
        load_model(cfg, "https://a/b.pth")
    with pytest.raises(UsageError, match="has no model"):
        load_model(Config(dict(default_scope="mmpretrain"), filename="tiny.py"), PATH)


@pytest.mark.parametrize(
    "device, number, sentence",
    [
        ("cuda", 0, "finds no CUDA device: use the device cpu"),
        ("cuda:0", 0, "finds no CUDA device: use the device cpu"),
        ("cuda:7", 2, "finds no device cuda:7: the last one is cuda:1"),
        ("gpu", 2, "'gpu' is not a device of PyTorch: name one as cpu, cuda or cuda:1"),
        ("", 0, "'' is not a device"),
        ("cuda:one", 2, "'cuda:one' is not a device"),
        ("meta", 0, "cannot use the device meta here"),
        ("hpu", 0, "cannot use the device hpu here"),
    ],
)
def test_a_device_that_is_not_there(cfg, monkeypatch, device, number, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: number > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: number)
    with pytest.raises(UsageError, match=sentence):  # there are no weights, and no model is built
        load_model(cfg, PATH, device)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", "cuda", "cuda:1"])
def test_a_device_that_is_there(monkeypatch, device):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    check_device(device)


def test_a_device_of_a_plug_in():
    """PyTorch knows ``privateuseone`` by the name that a plug-in gives it, as npu."""
    with pytest.raises(UsageError, match="cannot use the device privateuseone"):
        check_device("privateuseone")
