"""Whole detectors in engines, against what MMDetection predicts."""

import numpy as np
import pytest
import torch
from helpers.exported import (
    ENGINES,
    detector,
    detector_config,
    noise,
    predict,
    run,
    sizes_of,
    writes_onnx,
)

from mmhcgnet.engine import build_model, load_config
from mmhcgnet.engine.export import export_model, write_model
from mmhcgnet_runtime.masks import paste

SETS = (noise(3, 96, 128), noise(1, 128, 96))


def compare(outputs, wanted, sizes):
    """All of every image, and nothing behind it."""
    outputs = list(map(torch.as_tensor, outputs))
    for i, want in enumerate(wanted):
        number = len(want)
        boxes, scores, labels, *masks = (output[i] for output in outputs)
        torch.testing.assert_close(boxes[:number], want.bboxes, atol=0.01, rtol=1e-4)
        torch.testing.assert_close(scores[:number], want.scores, atol=2e-4, rtol=1e-3)
        assert torch.equal(labels[:number], want.labels)
        assert (labels[number:] == -1).all()
        assert not scores[number:].any() and not boxes[number:].any()
        if masks:
            (mask,) = masks
            assert not mask[number:].any() and mask.shape[1:] == (28, 28)
            pasted = paste(mask[:number].numpy(), boxes[:number].numpy(), tuple(sizes[i].tolist()))
            assert np.sum(pasted != want.masks.numpy()) <= 1e-3 * pasted.size


def sparse(model):
    """Let a detector see different numbers of objects, and none in one image.

    Returns:
        What it predicts for the images of each set.
    """
    cfg = model.roi_head.test_cfg if hasattr(model, "roi_head") else model.bbox_head.test_cfg
    low, high = 0.0, 1.0
    while True:
        cfg.score_thr = (low + high) / 2
        wanted = [predict(model, images, sizes_of(images)) for images in SETS]
        numbers = [len(found) for found in wanted[0]]
        if 0 in numbers and max(numbers) > 1:
            return wanted
        assert high - low > 1e-3
        low, high = (low, cfg.score_thr) if 0 in numbers else (cfg.score_thr, high)


slow = pytest.mark.slow(reason="exports and compiles one more detector")
MORE = ("faster-rcnn", "cascade-mask-rcnn", "fcos", "atss")


@pytest.mark.parametrize(
    "name", ["mask-rcnn", "retinanet", *(pytest.param(name, marks=slow) for name in MORE)]
)
def test_a_detector(name, tmp_path):
    writes_onnx()
    model = detector(name, tmp_path)
    wanted = sparse(model)
    path = str(tmp_path / "model.onnx")
    write_model(export_model(model), path, {})
    for images, want in zip(SETS, wanted, strict=True):
        for engine in ENGINES if name in ("mask-rcnn", "retinanet") else ENGINES[:1]:
            sizes = sizes_of(images)
            compare(run(engine, path, images, sizes), want, sizes)


def test_standard_operators_alone(tmp_path):
    writes_onnx()
    import onnx

    path = str(tmp_path / "model.onnx")
    write_model(export_model(detector("mask-rcnn", tmp_path)), path, {})
    model = onnx.load(path)
    onnx.checker.check_model(model)
    assert {node.domain for node in model.graph.node} == {""}
    inputs = {value.name: value.type.tensor_type for value in model.graph.input}
    assert inputs["images"].elem_type == onnx.TensorProto.UINT8
    assert inputs["sizes"].elem_type == onnx.TensorProto.INT64
    assert [value.name for value in model.graph.output] == ["boxes", "scores", "labels", "masks"]


SEESAW = dict(type="SeesawLoss", num_classes=3)


@pytest.mark.parametrize(
    "name, changes, words",
    [
        ("faster-rcnn", {"roi_head.type": "PISARoIHead"}, "RoI head PISARoIHead"),
        ("faster-rcnn", {"roi_head.bbox_head.loss_cls": SEESAW}, "activation"),
        ("faster-rcnn", {"test_cfg.rcnn.nms.type": "soft_nms"}, "soft_nms"),
        ("faster-rcnn", {"test_cfg.rpn.nms_pre": -1}, "nms_pre"),
        ("faster-rcnn", {"roi_head.bbox_roi_extractor.type": "GenericRoIExtractor"}, "extractor"),
        ("retinanet", {"bbox_head.bbox_coder.type": "LegacyDeltaXYWHBBoxCoder"}, "box coder"),
        ("retinanet", {"bbox_head.type": "PAAHead"}, "head PAAHead"),
    ],
    ids=["roi", "loss", "nms", "rpn", "extractor", "coder", "head"],
)
def test_what_cannot_be_exported_is_said(name, changes, words, tmp_path):
    path = tmp_path / "config.py"
    path.write_text(detector_config(name))
    cfg = load_config(str(path))
    for key, value in changes.items():
        *parents, last = key.split(".")
        node = cfg.model
        for parent in parents:
            node = node[parent]
        node[last] = value
    with pytest.raises(ValueError, match=words):
        export_model(build_model(cfg).eval())
