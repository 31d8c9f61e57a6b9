"""Exported models have the metrics of the models that they were made of."""

import json
from pathlib import Path

import pytest
import torch
from helpers.exported import scatter, writes_onnx
from helpers.scripts import TOOLS

from mmhcgnet.engine import build_model, load_config

ROOT = Path(__file__).parents[2]
BACKBONE = """
        _delete_=True,
        type="mmhcgnet.HCGNet",
        arch=dict(depths=[1] * 4, growth_rates=[8] * 4),
"""
CONFIGS = dict(
    classifier=f"""
_base_ = "{ROOT}/configs/hcgnet/hcgnet-b_1xb32-cosine-4e_shapes.py"
model = dict(backbone=dict({BACKBONE}), head=dict(in_channels=23))
""",
    detector=f"""
_base_ = "{ROOT}/configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
model = dict(
    backbone=dict({BACKBONE}out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[72, 44, 30, 23]),
)
""",
)


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
        assert result.code == 0, (result.out + result.err)[-3000:]

    kind = ["--classification"] if name == "classifier" else []
    make = "dataset_converters/make_shapes.py"
    run(make, *kind, "--images", 5, "--val-images", 12, "--size", 64)
    (tmp_path / "config.py").write_text(CONFIGS[name])
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
