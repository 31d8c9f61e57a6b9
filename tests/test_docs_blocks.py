"""Blocks of Python in the documentation do what the pages say; other tests run those of two pages.

Not run: converting with supervision (own_data.md), which needs an environment of its own, and
stores of images on other machines (many_gpus.md).
"""

import ast
import inspect
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exported import writes_onnx
from helpers.networks import write_networks
from mmpretrain.models import ImageClassifier
from PIL import Image

import mmhcgnet.engine
from mmhcgnet.engine import build_model, load_config, load_model
from mmhcgnet_runtime import Predictor

ROOT = Path(__file__).parents[1]
CLASSIFIER = "hcgnet-a1_1xb128-sgdr-28e_cifar10-folders"
PEER = "benchmarks/cifar10_peers/resnet18_10e.py"


def blocks(page):
    text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.M | re.S)


def run(block, **names):
    exec(compile(block, "block", "exec"), names)
    return names


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    pixels = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save("image.jpg")
    return tmp_path


@pytest.mark.slow(reason="HCGNet-B of ImageNet, twice")
def test_a_classifier_by_its_name(here):
    (block,) = blocks("classification")
    names: dict = {}
    for statement in ast.parse(block.replace("CHECKPOINT", "checkpoint.pth")).body:
        text = ast.unparse(statement)
        if config := re.search(r"'(hcgnet-b_[^*']+|configs/[^']+)'", text):
            state = build_model(load_config(config[1])).state_dict()
            torch.save(dict(state_dict=state), "checkpoint.pth")
        exec(text, names)
    assert "hcgnet-b_2xb128-mixup-lbs-sgdr-630e_in1k" in names["list_models"]("hcgnet*")


def test_untrained_networks_to_dissect(here):
    (here / "benchmarks").symlink_to(ROOT / "benchmarks")
    (block,) = blocks("analysis")
    run(block)
    for name, config in (("a1", CLASSIFIER), ("resnet18", PEER)):
        model = load_model(load_config(config), f"untrained_{name}.pth")
        assert isinstance(model, ImageClassifier)
        assert not any(b.any() for n, b in model.named_buffers() if n.endswith("running_mean"))


@pytest.mark.slow(reason="exports a detector")
def test_the_predictor_finds_objects(here, start):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    write_networks(here)
    start("deployment/export.py", "detector.py", "detector.pth", "-o", "model.onnx", code=0)
    block, _ = blocks("deploy")
    names = run(block)
    assert len(names["result"]["scores"]) and names["predictor"].classes == list("abcde")


def test_engines_on_a_gpu_are_called_by_their_names():
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    calls = []
    _, block = blocks("deploy")
    run(block, Predictor=lambda *args, **kwargs: calls.append((args, kwargs)))
    for args, kwargs in calls:
        inspect.signature(Predictor).bind(*args, **kwargs)
        for provider in kwargs.get("providers", ()):
            assert (
                provider if isinstance(provider, str) else provider[0]
            ) in ort.get_all_providers()
    assert len(calls) == 3


def test_the_safe_loader_is_one_call(monkeypatch):
    calls = []
    monkeypatch.setattr(mmhcgnet.engine, "use_safe_loader", lambda: calls.append(1))
    for block in blocks("safety"):
        run(block)
    assert calls == [1]


@pytest.mark.parametrize("page", ["trackers", "many_gpus"])
def test_a_config_with_what_a_page_says(page, here):
    from mmengine.registry import RUNNERS, STRATEGIES, TRANSFORMS, VISBACKENDS

    known = [each.get for each in (RUNNERS, STRATEGIES, TRANSFORMS, VISBACKENDS)]
    for i, block in enumerate(blocks(page)):
        if "_base_" not in block:
            block = f'_base_ = "configs/mask-rcnn_hcgnet-b_fpn_1x_coco.py"\n{block}'
        path = here / f"config{i}.py"
        path.write_text(block)
        load_config(str(path))
        for kind in re.findall(r'type="(\w+(?:VisBackend|Strategy|FromFile))"', block):
            assert any(get(kind) for get in known), kind
