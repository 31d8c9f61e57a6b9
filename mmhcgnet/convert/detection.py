"""The authors' detectors, of MMDetection 1.x, and today's MMDetection.

MMDetection's own ``upgrade_model_version.py`` does not do: it drops the wrong rows of the biases
and executes the config that the file carries.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mmhcgnet.models import ARCHITECTURES
from mmhcgnet.weights import find_weights, strip_module

from .layouts import DETECTION, backbone_pairs, build_network
from .matching import (
    Converted,
    Shapes,
    check_layout,
    check_match,
    compact,
    count_rows,
    make_meta,
    number,
    recognise,
    stated_meta,
)

_COCO_CLASSES = 80


def official_to_mmdet(checkpoint: dict, arch: str | None = None) -> Converted:
    """Convert a checkpoint of the authors' Mask R-CNN with FPN.

    Args:
        checkpoint: ``{'state_dict': weights, 'meta', …}`` of MMDetection 1.x or the weights
            alone, with or without ``module.`` in the names.
        arch: Name of the network, to be checked; by default the shapes show it.

    Raises:
        LayoutError: If the file holds anything else than exactly the tensors of a detector.
    """
    weights, twice = strip_module(find_weights(checkpoint))
    check_layout(weights, "detection")
    backbones = {
        name: {pair.official: pair.official_shape for pair in backbone_pairs(name, DETECTION)}
        for name in ARCHITECTURES
    }
    arch = recognise(weights, backbones, arch)
    # Without the background.
    num_classes = max(count_rows(weights, "bbox_head.fc_cls") - 1, 0)
    heads = head_shapes(build_network(arch).out_channels, num_classes)
    wanted = backbones[arch] | heads
    check_match(weights, wanted, twice, f"the authors' Mask R-CNN with HCGNet-{arch}")
    state_dict = {
        pair.ours: compact(weights[pair.official], pair.shape)
        for pair in backbone_pairs(arch, DETECTION)
    }
    state_dict.update(upgrade_head(name, weights[name]) for name in heads)

    epoch = number(stated_meta(checkpoint).get("epoch"))
    meta = make_meta(arch, epoch, accuracy=None)
    names = stated_meta(checkpoint).get("CLASSES")
    if isinstance(names, list | tuple) and len(names) == num_classes:
        meta["dataset_meta"] = dict(classes=tuple(map(str, names)))
    coco = num_classes == _COCO_CLASSES
    return Converted(
        arch=arch,
        num_classes=num_classes,
        epoch=epoch,
        accuracy=None,
        state_dict=state_dict,
        checkpoint=dict(meta=meta, state_dict=state_dict),
        file_name=f"mask-rcnn_hcgnet-{arch.lower()}_fpn_1x_coco_v1.pth" if coco else None,
    )


def head_shapes(channels: tuple[int, ...], num_classes: int) -> Shapes:
    """Names and shapes of neck and heads in MMDetection 1.x.

    Args:
        channels: Channels of the backbone's maps.
        num_classes: Classes without the background, for which each layer has a row more.
    """
    width, anchors, rows = 256, 3, num_classes + 1
    weights = {
        "rpn_head.rpn_conv": (width, width, 3, 3),
        "rpn_head.rpn_cls": (anchors, width, 1, 1),
        "rpn_head.rpn_reg": (4 * anchors, width, 1, 1),
        "bbox_head.fc_cls": (rows, 1024),
        "bbox_head.fc_reg": (4 * rows, 1024),
        "bbox_head.shared_fcs.0": (1024, width * 7 * 7),
        "bbox_head.shared_fcs.1": (1024, 1024),
        "mask_head.upsample": (width, width, 2, 2),
        "mask_head.conv_logits": (rows, width, 1, 1),
    }
    for i, in_channels in enumerate(channels):
        weights[f"neck.lateral_convs.{i}.conv"] = (width, in_channels, 1, 1)
        weights[f"neck.fpn_convs.{i}.conv"] = (width, width, 3, 3)
    for i in range(4):
        weights[f"mask_head.convs.{i}.conv"] = (width, width, 3, 3)
    shapes = {f"{name}.weight": shape for name, shape in weights.items()}
    return shapes | {f"{name}.bias": shape[:1] for name, shape in weights.items()}


def upgrade_head(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Rename a tensor of neck or heads, and move or drop the rows of the background class.

    The background was class 0. It is the last one of the classification now, and has neither box
    nor mask.
    """
    if name.startswith("bbox_head.fc_cls."):
        tensor = torch.cat([tensor[1:], tensor[:1]])
    elif name.startswith("bbox_head.fc_reg."):
        tensor = tensor[4:]
    elif name.startswith("mask_head.conv_logits."):
        tensor = tensor[1:]
    if name.startswith(("bbox_head.", "mask_head.")):
        name = f"roi_head.{name}"
    return name, compact(tensor, tensor.shape)
