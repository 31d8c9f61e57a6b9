"""MMCV's operators as standard ONNX operators, where MMCV itself would write operators of its own.

In PyTorch they are MMCV's, so that a model can be compared with its graph.
"""

from __future__ import annotations

from typing import Any

import torch
from mmcv.ops import nms, roi_align
from torch import Tensor

AWAY = (-1e5, -1e5, -1e5 + 64, -1e5 + 64)  # a box that sees nothing of any map


def align(
    x: Tensor,
    rois: Tensor,
    output_size: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    aligned: bool,
) -> Tensor:
    """Pool a map by MMCV's average RoIAlign; see :meth:`RoIAlign.forward`.

    As many samples as a bin has positions are none in a box without area. There MMCV gives 0, ONNX
    leaves it open, and OpenVINO gives NaN: such a box is moved to where all samples are 0.
    """
    if sampling_ratio == 0 and aligned:
        empty = (rois[:, 3:] <= rois[:, 1:3]).any(dim=1, keepdim=True)
        boxes = torch.where(empty, rois.new_tensor(AWAY), rois[:, 1:])
        rois = torch.cat([rois[:, :1], boxes], dim=1)
    return RoIAlign.apply(x, rois, output_size, spatial_scale, sampling_ratio, aligned)


class RoIAlign(torch.autograd.Function):
    """Average RoIAlign of MMCV."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        rois: Tensor,
        output_size: tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool,
    ) -> Tensor:
        """Pool a map.

        Args:
            ctx: Autograd's, not used.
            x: Map ``(N, C, H, W)``.
            rois: ``(R, 5)`` as index of the image and ``(x1, y1, x2, y2)`` in pixels of the image.
            output_size: Height and width.
            spatial_scale: Positions of the map for one pixel.
            sampling_ratio: Samples in each direction of a bin; 0 as many as it has positions.
            aligned: Whether positions have their centre at 0.5.

        Returns:
            ``(R, C, *output_size)``.
        """
        x = x.contiguous()  # MMCV reads whatever lies in memory as if it were
        return roi_align(x, rois, output_size, spatial_scale, sampling_ratio, "avg", aligned)

    @staticmethod
    def symbolic(
        g: Any,
        x: Any,
        rois: Any,
        output_size: tuple[int, int],
        spatial_scale: float,
        sampling_ratio: int,
        aligned: bool,
    ) -> Any:
        """Return the operator."""
        image, boxes = (
            g.op("Gather", rois, g.op("Constant", value_t=torch.tensor(columns)), axis_i=1)
            for columns in (0, [1, 2, 3, 4])
        )
        return g.op(
            "RoiAlign",
            x,
            boxes,
            g.op("Cast", image, to_i=torch.onnx.TensorProtoDataType.INT64),
            coordinate_transformation_mode_s="half_pixel" if aligned else "output_half_pixel",
            output_height_i=output_size[0],
            output_width_i=output_size[1],
            sampling_ratio_i=sampling_ratio,
            spatial_scale_f=spatial_scale,
        )


class NonMaxSuppression(torch.autograd.Function):
    """MMCV's NMS, image by image."""

    @staticmethod
    def forward(
        ctx: Any, boxes: Tensor, scores: Tensor, iou_threshold: float, max_number: int
    ) -> Tensor:
        """Select boxes.

        Args:
            ctx: Autograd's, not used.
            boxes: ``(N, n, 4)`` as ``(x1, y1, x2, y2)``.
            scores: ``(N, n)``; a box whose score is below 0 does not take part.
            iou_threshold: A box that overlaps a better one by more than this goes.
            max_number: The most that stay in an image.

        Returns:
            ``(M, 3)``: the image, 0, and the index of each selected box.
        """
        rows = []
        for image, (own, score) in enumerate(zip(boxes, scores, strict=True)):
            index = (score >= 0).nonzero()[:, 0]
            if len(index):
                kept = nms(own[index], score[index], iou_threshold)[1][:max_number]
                index = index[kept]
            rows.append(torch.stack([torch.full_like(index, image), index * 0, index], dim=1))
        return torch.cat(rows)

    @staticmethod
    def symbolic(g: Any, boxes: Any, scores: Any, iou_threshold: float, max_number: int) -> Any:
        """Return the operator."""
        constants = (
            torch.tensor([max_number]),
            torch.tensor([iou_threshold]),
            torch.tensor([-0.5]),
        )
        of_one_class = g.op("Unsqueeze", scores, g.op("Constant", value_t=torch.tensor([1])))
        return g.op(
            "NonMaxSuppression",
            boxes,
            of_one_class,
            *(g.op("Constant", value_t=constant) for constant in constants),
        )
