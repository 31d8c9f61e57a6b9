"""Exported models have the metrics of the models that they were made of."""

import json
import pickle
from pathlib import Path

import pytest
import torch
from helpers.configs import classifier, hcgnet, shapes_classifier, shapes_detector
from helpers.exported import scatter, writes_onnx
from helpers.scripts import TOOLS

from mmhcgnet.engine import build_model, load_config


def metrics(path):
    found = json.loads(Path(path).read_text())
    return {key: value for key, value in found.items() if "/" in key and "time" not in key}


@pytest.mark.slow(reason="four runs of scripts")
@pytest.mark.parametrize("name, engine", [("classifier", "openvino"), ("detector", "onnxruntime")])
def test_metrics_are_the_same(warm, tmp_path, name, engine):
    writes_onnx()
    pytest.importorskip(engine, reason=f"{engine} is not installed")

    def run(script, *arguments):
        result = warm.run(TOOLS / script, *arguments, cwd=tmp_path)
        printed = result.out + result.err
        assert result.code == 0, printed[-3000:]
        assert "LoggerHook" not in printed  # as in MMEngine's list of hooks

    kind = ["--classification"] if name == "classifier" else []
    make = "dataset_converters/make_shapes.py"
    run(make, *kind, "--images", 5, "--val-images", 12, "--size", 64)
    config = shapes_classifier() if name == "classifier" else shapes_detector()
    (tmp_path / "config.py").write_text(config)
    model = build_model(load_config(str(tmp_path / "config.py")))
    scatter(model)
    if name == "detector":  # a model that sees something where there is something
        with torch.no_grad():
            model.roi_head.bbox_head.fc_cls.bias[-1] = -3
    torch.save(dict(meta={}, state_dict=model.state_dict()), tmp_path / "model.pth")
    run("test.py", "config.py", "model.pth", "--out", "pytorch.json")
    run("deployment/export.py", "config.py", "model.pth", "-o", "model.onnx")
    options = ["--engine", engine, "--out", "engine.json"]
    run("deployment/test.py", "config.py", "model.onnx", *options)
    wanted, found = metrics(tmp_path / "pytorch.json"), metrics(tmp_path / "engine.json")
    assert wanted and max(wanted.values()) > 0
    assert found == pytest.approx(wanted, abs=1e-3)


ARRAYS = """
import numpy as np
from mmpretrain.datasets import BaseDataset
from mmpretrain.registry import DATASETS


@DATASETS.register_module()
class Arrays(BaseDataset):
    METAINFO = dict(classes=("ant", "bee", "cat"))

    def load_data_list(self):
        images = np.random.default_rng(0).integers(0, 256, (6, 32, 32, 3), dtype=np.uint8)
        return [dict(img=image, gt_label=i % 3) for i, image in enumerate(images)]
"""
TESTING = """
import sys
sys.path.insert(0, ".")
_base_ = "model.py"
custom_imports = dict(imports=["arrays"])
test_dataloader = dict(
    batch_size=3,
    num_workers=0,
    dataset=dict(type="Arrays", ann_file="", pipeline=[dict(type="PackInputs")]),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_evaluator = dict(type="Accuracy", topk=(1,))
test_cfg = dict()
"""


@pytest.mark.slow(reason="runs of scripts")
def test_a_set_that_holds_images_and_has_the_classes_in_another_order(warm, tmp_path):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")

    def run(script, *arguments, code=0):
        result = warm.run(TOOLS / script, *arguments, cwd=tmp_path)
        assert result.code == code, (result.out + result.err)[-3000:]
        return result.out + result.err

    text = classifier(hcgnet(), 20, 3, (90, 120, 150), (40, 60, 80))
    (tmp_path / "model.py").write_text(text.replace("to_rgb=True", "to_rgb=False"))
    (tmp_path / "config.py").write_text(TESTING)
    (tmp_path / "arrays.py").write_text(ARRAYS)
    model = build_model(load_config(str(tmp_path / "model.py")))
    scatter(model)
    meta = dict(dataset_meta=dict(classes=("cat", "ant", "bee")))
    torch.save(dict(meta=meta, state_dict=model.state_dict()), tmp_path / "model.pth")
    run("test.py", "config.py", "model.pth", "--out", "pytorch.pkl")
    run("deployment/export.py", "config.py", "model.pth")
    command = ("deployment/test.py", "config.py", "model.onnx", "--out")
    assert "exported model was trained on the classes cat, ant, bee" in run(*command, "engine.pkl")
    wanted, found = (
        torch.stack([sample["pred_score"] for sample in pickle.loads(path.read_bytes())])
        for path in (tmp_path / "pytorch.pkl", tmp_path / "engine.pkl")
    )
    assert wanted.std(0).min() > 1e-3
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)
    assert "--out must end in .pkl" in run(*command, "metrics.txt", code=2)
