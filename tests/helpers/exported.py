"""Tiny models to export, what they predict in PyTorch, and what engines make of their files."""

from __future__ import annotations

import pytest
import torch
from helpers.configs import hcgnet

from mmhcgnet.engine import build_model, load_config

# Where they are missing, a test is skipped, and says so.
ENGINES = ("onnxruntime", "openvino")
PADDING = (5, 10)  # pixels below and to the right of the second image
NECK = "neck=dict(in_channels=[72, 44, 30, 23], out_channels=16)"
LEVELS = dict(depths=(1, 1, 1, 1), growth_rates=(8, 8, 8, 8), stem="imagenet")
BACKBONE = hcgnet(**LEVELS, out_indices=(0, 1, 2, 3))
BASES = {
    "mask-rcnn": ("_base_/models/mask-rcnn_r50_fpn.py", True),
    "faster-rcnn": ("_base_/models/faster-rcnn_r50_fpn.py", True),
    "cascade-mask-rcnn": ("_base_/models/cascade-mask-rcnn_r50_fpn.py", True),
    "retinanet": ("_base_/models/retinanet_r50_fpn.py", False),
    "fcos": ("fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", False),
    "atss": ("atss/atss_r50_fpn_1x_coco.py", False),
}
DENSE = """
    bbox_head=dict(in_channels=16, feat_channels=64, stacked_convs=1, num_classes=3),
    test_cfg=dict(nms_pre=60, max_per_img=10, score_thr=0.0),
"""
BOX_HEAD = "in_channels=16, fc_out_channels=32, num_classes=3"
MASK_HEAD = "mask_head=dict(in_channels=16, conv_out_channels=16, num_convs=1, num_classes=3),"


def detector_config(name: str) -> str:
    """A config of a tiny detector with HCGNet, which keeps 10 objects of 3 classes."""
    base, two_stage = BASES[name]
    if not two_stage:
        return f"""
_base_ = "mmdet::{base}"
default_scope = "mmdet"
model = dict(
    backbone={_deleting(BACKBONE)},
    {NECK},
    {DENSE}
)
"""
    heads = f"bbox_head=dict({BOX_HEAD}),"
    if name.startswith("cascade"):
        heads = "bbox_head=[" + ", ".join(_cascade_head(i) for i in range(3)) + "],"
    masks = "" if name == "faster-rcnn" else MASK_HEAD
    extractors = "bbox_roi_extractor=dict(out_channels=16),"
    if masks:
        extractors += " mask_roi_extractor=dict(out_channels=16),"
    return f"""
_base_ = "mmdet::{base}"
default_scope = "mmdet"
model = dict(
    backbone={_deleting(BACKBONE)},
    {NECK},
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict({extractors} {heads} {masks}),
    test_cfg=dict(
        rpn=dict(nms_pre=60, max_per_img=40), rcnn=dict(score_thr=0.0, max_per_img=10)
    ),
)
"""


def _deleting(backbone: str) -> str:
    return backbone.replace("{", "{'_delete_': True, ", 1)


def _cascade_head(stage: int) -> str:
    stds = [[0.1, 0.1, 0.2, 0.2], [0.05, 0.05, 0.1, 0.1], [0.033, 0.033, 0.067, 0.067]][stage]
    return (
        f'dict(type="Shared2FCBBoxHead", {BOX_HEAD}, reg_class_agnostic={stage < 2}, '
        f'bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_stds={stds}))'
    )


def detector(name: str, folder) -> torch.nn.Module:
    """A tiny detector in eval mode that sees something in noise."""
    path = folder / f"{name}.py"
    path.write_text(detector_config(name))
    model = build_model(load_config(str(path)))
    scatter(model)
    return model.eval()


def scatter(model: torch.nn.Module) -> None:
    """Give a model weights and statistics of norms that make it tell images apart."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var"):
                tensor.uniform_(0.5, 2, generator=generator)
            elif tensor.dim() > 1:
                fan_in = tensor[0].numel()
                tensor.normal_(0, (2 / fan_in) ** 0.5, generator=generator)
            elif name.endswith("bias") or name.endswith("running_mean"):
                tensor.normal_(0, 0.1, generator=generator)


def noise(number: int, height: int, width: int) -> torch.Tensor:
    """Images uint8 ``(N, H, W, 3)`` in RGB: smooth and rough, bright and dark."""
    generator = torch.Generator().manual_seed(number * height + width)
    coarse = torch.rand(number, 3, 6, 7, generator=generator)
    images = torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")
    images = images * torch.linspace(1, 0.3, number)[:, None, None, None]
    return (images * 255).to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def sizes_of(images: torch.Tensor) -> torch.Tensor:
    """Sizes without padding; the second image has some."""
    sizes = torch.tensor([images.shape[1:3]] * len(images))
    if len(images) > 1:
        sizes[1] -= torch.tensor(PADDING)
    return sizes


def predict(model: torch.nn.Module, images: torch.Tensor, sizes: torch.Tensor) -> list:
    """What MMDetection predicts, ``pred_instances`` of each image."""
    from mmdet.structures import DetDataSample

    samples = []
    for i, (height, width) in enumerate(sizes.tolist()):
        shape = (height, width)
        meta = dict(img_shape=shape, ori_shape=shape, scale_factor=(1.0, 1.0), img_id=i)
        samples.append(DetDataSample(metainfo=meta))
    inputs = [
        image[:height, :width].permute(2, 0, 1).flip(0)  # BGR, as MMDetection loads images
        for image, (height, width) in zip(images, sizes.tolist(), strict=True)
    ]
    with torch.no_grad():
        results = model.test_step(dict(inputs=inputs, data_samples=samples))
    return [result.pred_instances for result in results]


def writes_onnx() -> None:
    """Skip a test where nothing can be written."""
    pytest.importorskip("onnx", reason="onnx is not installed, which writes the files")


def run(engine: str, path: str, *inputs: torch.Tensor) -> list:
    """Run a file in an engine; the outputs as arrays."""
    arrays = [value.numpy() for value in inputs]
    if engine == "onnxruntime":
        onnxruntime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = [node.name for node in session.get_inputs()]
        return session.run(None, dict(zip(names, arrays, strict=True)))
    openvino = pytest.importorskip("openvino", reason="OpenVINO is not installed")
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    results = openvino.Core().compile_model(path, "CPU", options)(arrays)
    return [results[i] for i in range(len(results))]
