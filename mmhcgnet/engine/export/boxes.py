"""Boxes in batches of fixed size: the best, decoded, clipped, and without duplicates.

An image has as many candidates as the config allows at most; the score of those that are not there
is -1. So no shape in the graph depends on what is seen in an image, but for NMS itself.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from mmdet.models.task_modules import DeltaXYWHBBoxCoder, DistancePointBBoxCoder
from mmdet.models.task_modules.coders.delta_xywh_bbox_coder import delta2bbox
from mmdet.structures.bbox import distance2bbox
from torch import Tensor

from mmhcgnet.errors import UsageError

from .operators import NonMaxSuppression

Decode = Callable[[Tensor, Tensor, Tensor], Tensor]


def best(scores: Tensor, number: int) -> tuple[Tensor, Tensor]:
    """Return the best of each image, sorted, and their indices, each ``(N, number)``.

    Args:
        scores: ``(N, n)``, -1 where there is no candidate; ``n`` may be less than ``number``.
        number: How many.

    Returns:
        Their scores, -1 from where on there are no more, and indices, 0 there.
    """
    scores, index = F.pad(scores, (0, number), value=-1.0).topk(number)
    return scores, index * (scores >= 0)


def take(values: Tensor, index: Tensor) -> Tensor:
    """Take rows ``(N, k)`` of ``(N, n, 4)``."""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def decoder(coder: Any, owner: str) -> Decode:
    """Return what turns priors, predictions and sizes of images into clipped boxes.

    Priors are ``(N, n, 4)`` boxes or ``(N, n, 2)`` points, predictions ``(N, n, 4)``, and sizes
    heights and widths of images, int64 ``(N, 2)``; the boxes are ``(N, n, 4)``.

    Args:
        coder: MMDetection's box coder.
        owner: What has it, for messages.

    Raises:
        UsageError: If no graph can be written of it.
    """
    if type(coder) is DeltaXYWHBBoxCoder:

        def decode(priors: Tensor, predictions: Tensor) -> Tensor:
            boxes = delta2bbox(
                priors.reshape(-1, 4),
                predictions.reshape(-1, 4),
                coder.means,
                coder.stds,
                clip_border=False,
                add_ctr_clamp=coder.add_ctr_clamp,
                ctr_clamp=coder.ctr_clamp,
            )
            return boxes.reshape(predictions.shape)

    elif type(coder) is DistancePointBBoxCoder:
        decode = distance2bbox
    else:
        raise UsageError(
            f"{owner} has the box coder {type(coder).__name__}, which cannot be exported: only "
            "DeltaXYWHBBoxCoder and DistancePointBBoxCoder can."
        )

    def clipped(priors: Tensor, predictions: Tensor, sizes: Tensor) -> Tensor:
        boxes = decode(priors, predictions)
        if not coder.clip_border:
            return boxes
        limits = sizes[:, None, [1, 0, 1, 0]].to(boxes.dtype)
        return torch.minimum(boxes.clamp(min=0), limits)

    return clipped


class Suppression:
    """MMCV's ``batched_nms`` for a batch of images.

    Args:
        cfg: Config of a detector's NMS.
        max_number: The most that stay in an image.
        owner: What has it, for messages.

    Raises:
        UsageError: If it is another NMS than the standard one.
    """

    def __init__(self, cfg: dict, max_number: int, owner: str) -> None:
        cfg = dict(cfg)
        kind = cfg.pop("type", "nms")
        self.class_agnostic = cfg.pop("class_agnostic", False)
        self.iou_threshold = cfg.pop("iou_threshold", cfg.pop("iou_thr", None))
        cfg.pop("split_thr", None)  # how much is done at once
        if kind != "nms" or self.iou_threshold is None or cfg:
            unknown = f" with {', '.join(cfg)}" if cfg else ""
            raise UsageError(
                f"{owner} has the NMS {kind!r}{unknown}, which cannot be exported: only type='nms' "
                "with an iou_threshold can."
            )
        if max_number <= 0:
            raise UsageError(f"{owner} keeps any number of boxes: set max_per_img to export it.")
        self.max_number = max_number

    def __call__(self, boxes: Tensor, scores: Tensor, groups: Tensor) -> tuple[Tensor, Tensor]:
        """Select boxes.

        Args:
            boxes: ``(N, n, 4)``.
            scores: ``(N, n)``, -1 where there is none.
            groups: Boxes of one group alone suppress each other, ``(n,)`` or ``(N, n)``.

        Returns:
            Scores and indices of the boxes that stay, as :func:`best` returns them.
        """
        apart = boxes
        if not self.class_agnostic:  # as in MMCV, the groups are moved out of each other's way
            there = boxes * (scores >= 0)[..., None]
            step = there.flatten(1).amax(dim=1)[:, None, None] + 1
            apart = boxes + groups.to(boxes.dtype)[..., None] * step
        selected = NonMaxSuppression.apply(apart, scores, self.iou_threshold, self.max_number)
        flat = scores.flatten()
        index = selected[:, 0] * scores.shape[1] + selected[:, 2]
        kept = torch.full_like(flat, -1.0).scatter(0, index, flat[index])
        return best(kept.reshape(scores.shape), self.max_number)
