"""Detectors of one stage, such as RetinaNet, FCOS and ATSS."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads.base_dense_head import BaseDenseHead
from torch import Tensor, nn

from mmhcgnet.errors import UsageError

from .boxes import Suppression, best, decoder, take
from .two_stage import detections, rows_of

METHODS = ("predict", "predict_by_feat", "_predict_by_feat_single", "_bbox_post_process")


class Dense(nn.Module):
    """A dense head with MMDetection's usual post-processing.

    Args:
        detector: A detector of one stage, in eval mode.

    Raises:
        UsageError: If the head has a post-processing of its own, or another NMS or box coder than
            can be exported.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        self.head = head = detector.bbox_head
        kind, name = type(head), type(head).__name__
        if any(getattr(kind, key, None) is not getattr(BaseDenseHead, key) for key in METHODS):
            raise UsageError(
                f"The head {name} cannot be exported: its post-processing is not that of "
                "RetinaNet, FCOS and ATSS."
            )
        if getattr(head.loss_cls, "custom_cls_channels", False):
            raise UsageError("A head whose loss brings its activation cannot be exported.")
        self.cfg = cfg = head.test_cfg
        if cfg.get("nms_pre", -1) <= 0:
            raise UsageError(
                f"The head {name} keeps any number of boxes: set nms_pre to export it."
            )
        self.decode = decoder(head.bbox_coder, f"The head {name}")
        self.suppress = Suppression(cfg.nms, cfg.max_per_img, f"The head {name}")

    def forward(self, features: tuple[Tensor, ...], sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            features: Maps of the neck, ``(N, C, H_i, W_i)``.
            sizes: Height and width of the images, int64 ``(N, 2)``.

        Returns:
            Boxes ``(N, K, 4)``, scores ``(N, K)``, and labels ``(N, K)`` with -1 where there is
            none.
        """
        head, cfg = self.head, self.cfg
        logits, predictions, *factors = head(features)
        priors = head.prior_generator.grid_priors(
            [level.shape[-2:] for level in logits], logits[0].dtype, logits[0].device
        )
        classes = head.cls_out_channels - (not head.use_sigmoid_cls)
        boxes, scores, labels = [], [], []
        for i, (logit, prediction, prior) in enumerate(
            zip(logits, predictions, priors, strict=True)
        ):
            score = rows_of(logit, head.cls_out_channels)
            score = score.sigmoid() if head.use_sigmoid_cls else score.softmax(dim=2)[..., :-1]
            score = score.flatten(1)
            score = score.masked_fill(score <= cfg.get("score_thr", 0), -1)
            score, index = best(score, cfg.nms_pre)
            place = torch.div(index, classes, rounding_mode="floor")
            labels.append(index - place * classes)
            boxes.append(self.decode(prior[place], take(rows_of(prediction, 4), place), sizes))
            if factors:  # centerness
                factor = rows_of(factors[0][i], 1)[..., 0].sigmoid().gather(1, place)
                score = torch.where(score >= 0, score * factor, score)
            scores.append(score)
        boxes, scores, labels = (torch.cat(parts, dim=1) for parts in (boxes, scores, labels))
        smallest = cfg.get("min_bbox_size", -1)
        if smallest >= 0:
            scores = scores.masked_fill(((boxes[..., 2:] - boxes[..., :2]) <= smallest).any(2), -1)
        scores, index = self.suppress(boxes, scores, labels)
        return detections(take(boxes, index), scores, labels.gather(1, index))
