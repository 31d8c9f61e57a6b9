"""A file prepares images and sees their colours as the config's test does."""

import copy

import numpy as np
import pytest
import torch
from helpers.configs import classifier, hcgnet
from helpers.exported import noise, scatter, writes_onnx
from mmdet.datasets.transforms import LoadAnnotations, PackDetInputs, Resize
from mmengine.config import Config
from mmengine.dataset import ConcatDataset
from mmpretrain.datasets import CIFAR10, CustomDataset
from mmpretrain.datasets.transforms import LoadImageFromFile, PackInputs, ResizeEdge
from mmpretrain.structures import DataSample

from mmhcgnet.engine.configs import channel_order
from mmhcgnet.engine.export import export_model, write_model
from mmhcgnet.engine.export.in_runner import ExportedModel
from mmhcgnet.engine.export.pipeline import describe_pipeline
from mmhcgnet.engine.inference import TorchPredictor
from mmhcgnet.engine.models import build_model
from mmhcgnet_runtime import Predictor

FILES = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
ARRAYS = [dict(type="PackInputs")]


@pytest.mark.parametrize("to_rgb", [True, False])
@pytest.mark.parametrize("pipeline", [FILES, ARRAYS], ids=["files", "arrays"])
def test_colours(tmp_path, pipeline, to_rgb):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    config = tmp_path / "config.py"
    config.write_text(classifier(hcgnet(), 20, 3, (90, 120, 150), (40, 60, 80)))
    cfg = Config.fromfile(config)
    cfg.data_preprocessor.to_rgb = to_rgb
    cfg.test_dataloader = dict(dataset=dict(type="CIFAR10", pipeline=pipeline))
    model = build_model(cfg)
    scatter(model)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / "a.pth")
    predictor = TorchPredictor(cfg, str(tmp_path / "a.pth"))
    (image,) = noise(1, 32, 32).numpy()
    swapped = np.ascontiguousarray(image[..., ::-1])
    wanted = predictor(image)["scores"]
    assert abs(predictor(swapped)["scores"] - wanted).max() > 1e-3

    path = str(tmp_path / "a.onnx")
    exported = export_model(copy.deepcopy(predictor.model), channel_order(cfg))
    write_model(exported, path, describe_pipeline(cfg))
    np.testing.assert_allclose(Predictor(path)(image)["scores"], wanted, atol=1e-5)

    # A dataloader gives the colours as its data set has them: those of files as BGR.
    given = torch.from_numpy(swapped if pipeline is FILES else image).permute(2, 0, 1)
    data = dict(inputs=[given], data_samples=[DataSample()])
    (sample,) = ExportedModel(path, channel_order(cfg)).test_step(data)
    np.testing.assert_allclose(sample.pred_score, wanted, atol=1e-5)


EDGE = [dict(kind="resize_edge", size=72, edge="short", interpolation="bilinear", backend="cv2")]
BOTH = [dict(kind="resize", size=[9, 8], keep_ratio=True, interpolation="bilinear", backend="cv2")]
NAMED = [dict(type="LoadImageFromFile"), dict(type="ResizeEdge", scale=72), dict(type="PackInputs")]
CLASSES = [dict(type=LoadImageFromFile), dict(type=ResizeEdge, scale=72), dict(type=PackInputs)]
INHERITED = [dict(transform, _scope_="mmpretrain") for transform in NAMED]
OF_MMDET = [
    dict(type=LoadImageFromFile),
    dict(type=Resize, scale=(9, 8), keep_ratio=True),
    dict(type=LoadAnnotations, with_bbox=True),
    dict(type=PackDetInputs),
]
SETS = {
    "names": (dict(type="CustomDataset", pipeline=NAMED), EDGE),
    "inherited": (dict(type="CustomDataset", pipeline=INHERITED), EDGE),
    "classes": (dict(type=CustomDataset, pipeline=CLASSES), EDGE),
    "detection": (dict(type="CocoDataset", pipeline=OF_MMDET), BOTH),
    "repeated": (dict(type="RepeatDataset", dataset=dict(pipeline=NAMED)), EDGE),
    "joined": (dict(type=ConcatDataset, datasets=[dict(type=CIFAR10, pipeline=CLASSES)]), EDGE),
}


@pytest.mark.parametrize("kind", SETS)
def test_steps(kind):
    dataset, steps = SETS[kind]
    cfg = Config(dict(test_dataloader=dict(dataset=dataset)))
    assert describe_pipeline(cfg) == dict(steps=steps) and channel_order(cfg) == "bgr"


def test_steps_where_no_data_set_has_any():
    cfg = Config(dict(test_pipeline=NAMED, test_dataloader=dict(dataset=dict(type="A"))))
    assert describe_pipeline(cfg) == dict(steps=EDGE)
    assert describe_pipeline(Config())["steps"] is None
    assert channel_order(Config()) == "bgr"
