"""What happens to an image before the network, in words that a file can carry."""

from __future__ import annotations

from typing import Any

from mmengine.config import Config

from mmhcgnet.config_dicts import type_name
from mmhcgnet.engine.configs import tested_pipeline

# They read and pack, which whoever runs a file does in their own way.
NEUTRAL = (
    "LoadImageFromFile",
    "LoadAnnotations",
    "LoadPanopticAnnotations",
    "LoadImageFromNDArray",
    "PackDetInputs",
    "PackInputs",
)


def describe_pipeline(cfg: Config) -> dict[str, Any]:
    """Describe how a config prepares images when it tests.

    Args:
        cfg: A config of MMDetection or MMPretrain.

    Returns:
        ``steps``, a list of ``resize``, ``resize_edge`` and ``center_crop`` with their arguments;
        or, if the config does something else, None and ``unknown_step``, the first such thing.
    """
    pipeline = tested_pipeline(cfg)
    if not pipeline:
        return dict(steps=None, unknown_step="a pipeline that the config does not have")
    steps = []
    for transform in pipeline:
        kind = type_name(transform)
        if kind in NEUTRAL:
            continue
        step = _describe(kind, dict(transform))
        if step is None:
            return dict(steps=None, unknown_step=kind)
        steps.append(step)
    return dict(steps=steps)


def _describe(kind: str, transform: dict[str, Any]) -> dict[str, Any] | None:
    transform.pop("type")
    transform.pop("_scope_", None)  # of what is inherited from another package's config
    if kind == "CenterCrop":
        size = transform.pop("crop_size", None)
        size = [size, size] if isinstance(size, int) else size
        return None if transform or not size else dict(kind="center_crop", size=list(size))
    how = dict(
        interpolation=transform.pop("interpolation", "bilinear"),
        backend=transform.pop("backend", "cv2"),
    )
    if how["backend"] == "cv2" and how["interpolation"] != "bilinear":
        return None
    size = transform.pop("scale", None)
    if kind == "ResizeEdge" and isinstance(size, int):
        edge = transform.pop("edge", "short")
        return None if transform else dict(kind="resize_edge", size=size, edge=edge, **how)
    if kind == "Resize" and size is not None:
        size = [size, size] if isinstance(size, int) else list(size)
        keep_ratio = bool(transform.pop("keep_ratio", False))
        transform.pop("clip_object_border", None)
        return None if transform else dict(kind="resize", size=size, keep_ratio=keep_ratio, **how)
    return None
