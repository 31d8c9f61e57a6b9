"""Exported models have the metrics of the models that they were made of."""

import json
from pathlib import Path

import pytest
import torch
from helpers.configs import shapes_classifier, shapes_detector
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
