"""Detectors of two stages: RPN, then one head or a cascade of them, with or without masks."""

from __future__ import annotations

import torch
from mmdet.models.dense_heads import RPNHead
from mmdet.models.roi_heads import CascadeRoIHead, SingleRoIExtractor, StandardRoIHead
from mmdet.models.roi_heads.bbox_heads import BBoxHead
from mmdet.models.roi_heads.mask_heads import FCNMaskHead
from torch import Tensor, nn

from mmhcgnet.errors import UsageError

from .boxes import Suppression, best, decoder, take
from .operators import align


class Proposals(nn.Module):
    """The RPN with its post-processing.

    Args:
        head: MMDetection's ``RPNHead``.

    Raises:
        UsageError: If it is another head, or has another NMS or box coder than can be exported.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        check_kind(head, RPNHead, "RPN")
        self.head, self.cfg = head, head.test_cfg
        self.decode = decoder(head.bbox_coder, "The RPN")
        self.suppress = Suppression(self.cfg.nms, self.cfg.max_per_img, "The RPN")
        if self.cfg.get("nms_pre", -1) <= 0:
            raise UsageError("The RPN keeps any number of boxes: set nms_pre to export it.")

    def forward(self, features: tuple[Tensor, ...], sizes: Tensor) -> tuple[Tensor, Tensor]:
        """Propose boxes ``(N, P, 4)``, and say which of them are there, ``(N, P)``.

        Args:
            features: Maps ``(N, C, H_i, W_i)``.
            sizes: Height and width of the images, int64 ``(N, 2)``.
        """
        head, number = self.head, self.cfg.nms_pre
        logits, deltas = head(features)
        priors = head.prior_generator.grid_priors(
            [level.shape[-2:] for level in logits], logits[0].dtype, logits[0].device
        )
        boxes, scores = [], []
        for logit, delta, prior in zip(logits, deltas, priors, strict=True):
            score = rows_of(logit, head.cls_out_channels)
            score = score.sigmoid() if head.use_sigmoid_cls else score.softmax(dim=2)
            score, index = best(score[..., 0], number)
            boxes.append(self.decode(prior[index], take(rows_of(delta, 4), index), sizes))
            scores.append(score)
        boxes, scores = torch.cat(boxes, dim=1), torch.cat(scores, dim=1)
        smallest = self.cfg.get("min_bbox_size", -1)
        if smallest >= 0:
            scores = scores.masked_fill(((boxes[..., 2:] - boxes[..., :2]) <= smallest).any(2), -1)
        levels = torch.arange(len(logits), device=scores.device).repeat_interleave(number)
        scores, index = self.suppress(boxes, scores, levels)
        return take(boxes, index) * (scores >= 0)[..., None], scores >= 0


class RoIFeatures(nn.Module):
    """MMDetection's ``SingleRoIExtractor``, every box on the level that suits its size.

    Args:
        extractor: The extractor.

    Raises:
        UsageError: If it is another one, or its layers are not MMCV's average RoIAlign.
    """

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        check_kind(extractor, SingleRoIExtractor, "RoI extractor")
        for layer in extractor.roi_layers:
            if type(layer).__name__ != "RoIAlign" or layer.pool_mode != "avg":
                raise UsageError(
                    f"The RoI layer {layer} cannot be exported: only RoIAlign with "
                    "pool_mode='avg' can."
                )
        self.extractor = extractor

    def forward(self, features: tuple[Tensor, ...], rois: Tensor) -> Tensor:
        """Pool boxes ``(R, 5)``, with the image's index first, to ``(R, C, h, w)``."""
        layers = self.extractor.roi_layers
        features = features[: len(layers)]
        if len(layers) == 1:
            return _align(layers[0], features[0], rois)
        levels = self.extractor.map_roi_levels(rois, len(layers))
        rows = [(levels == level).nonzero()[:, 0] for level in range(len(layers))]
        pooled = [
            _align(layer, feature, rois[own])
            for layer, feature, own in zip(layers, features, rows, strict=True)
        ]
        order = torch.cat(rows)
        places = torch.arange(order.shape[0], device=order.device)
        return torch.cat(pooled)[torch.zeros_like(order).scatter(0, order, places)]


def _align(layer: nn.Module, x: Tensor, rois: Tensor) -> Tensor:
    return align(
        x, rois, layer.output_size, layer.spatial_scale, layer.sampling_ratio, layer.aligned
    )


class TwoStage(nn.Module):
    """All behind the neck of a detector of two stages.

    Args:
        detector: Faster R-CNN, Mask R-CNN or Cascade R-CNN, in eval mode.

    Raises:
        UsageError: If one of its parts cannot be exported.
    """

    def __init__(self, detector: nn.Module) -> None:
        super().__init__()
        roi = detector.roi_head
        check_kind(roi, (StandardRoIHead, CascadeRoIHead), "RoI head")
        self.propose = Proposals(getattr(detector, "rpn_head", None))
        cascade = isinstance(roi, CascadeRoIHead)
        self.shared = roi.shared_head if roi.with_shared_head else nn.Identity()
        self.extractors = _modules(roi.bbox_roi_extractor, cascade, RoIFeatures)
        self.heads = _modules(roi.bbox_head, cascade)
        for head in self.heads:
            if type(head).predict_by_feat is not BBoxHead.predict_by_feat or not head.with_reg:
                raise UsageError(f"The box head {type(head).__name__} cannot be exported.")
            if head.custom_cls_channels or head.custom_activation:
                raise UsageError("A box head whose loss brings its activation cannot be exported.")
        self.decoders = [decoder(head.bbox_coder, "The box head") for head in self.heads]
        self.cfg = cfg = roi.test_cfg
        self.suppress = Suppression(cfg.nms, cfg.max_per_img, "The box head")
        self.has_masks = roi.with_mask
        if self.has_masks:
            shares = getattr(roi, "share_roi_extractor", False)
            extractor = roi.bbox_roi_extractor if shares else roi.mask_roi_extractor
            self.mask_extractors = _modules(extractor, cascade, RoIFeatures)
            self.mask_heads = _modules(roi.mask_head, cascade)
            for head in self.mask_heads:
                check_kind(head, FCNMaskHead, "mask head")

    def forward(self, features: tuple[Tensor, ...], sizes: Tensor) -> tuple[Tensor, ...]:
        """Detect objects.

        Args:
            features: Maps of the neck, ``(N, C, H_i, W_i)``.
            sizes: Height and width of the images, int64 ``(N, 2)``.

        Returns:
            Boxes ``(N, K, 4)``, scores ``(N, K)``, labels ``(N, K)`` with -1 where there is none,
            and of a detector with masks their probabilities, ``(N, K, h, w)``.
        """
        boxes, there = self.propose(features, sizes)
        boxes, scores, labels = self._classify(features, boxes, there, sizes)
        if not self.has_masks:
            return boxes, scores, labels
        return boxes, scores, labels, self._masks(features, boxes, labels)

    def _classify(
        self, features: tuple[Tensor, ...], boxes: Tensor, there: Tensor, sizes: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        number = self.propose.cfg.max_per_img
        logits = []
        for i, head in enumerate(self.heads):
            rois = _with_image(boxes)
            logit, deltas = head(self.shared(self.extractors[i](features, rois)))
            logits.append(logit)
            classes = 1 if head.reg_class_agnostic else head.num_classes
            deltas = deltas.reshape(-1, number, classes, 4)
            if i < len(self.heads) - 1:  # each box becomes that of its class
                label = logit[:, :-1].argmax(dim=1).reshape(-1, number, 1, 1)
                label = (label * 0 if classes == 1 else label).expand(-1, -1, 1, 4)
                boxes = self.decoders[i](boxes, deltas.gather(2, label)[:, :, 0], sizes)
        decoded = self.decoders[-1](
            boxes.repeat_interleave(classes, dim=1), deltas.flatten(1, 2), sizes
        )
        of_classes = self.heads[-1].num_classes
        if classes == 1:
            decoded = decoded.repeat_interleave(of_classes, dim=1)
        mean = sum(logits) / len(logits)
        scores = mean.softmax(dim=1)[:, :-1].reshape(-1, number, of_classes)
        counts = (scores > self.cfg.score_thr) & there[..., None]
        scores = scores.masked_fill(~counts, -1).flatten(1)
        labels = torch.arange(of_classes, device=scores.device).repeat(number)
        scores, index = self.suppress(decoded, scores, labels)
        return detections(take(decoded, index), scores, labels[index])

    def _masks(self, features: tuple[Tensor, ...], boxes: Tensor, labels: Tensor) -> Tensor:
        """Predict masks of the objects that are there, and of one box more if there are none."""
        labels = labels.flatten()
        there = labels >= 0
        first = torch.arange(labels.shape[0], device=labels.device) == 0
        rows = (there | first).nonzero()[:, 0]
        rois, labels = _with_image(boxes)[rows], labels[rows].clamp(min=0)
        masks = []
        for extractor, head in zip(self.mask_extractors, self.mask_heads, strict=True):
            mask = head(self.shared(extractor(features, rois))).sigmoid()
            if not head.class_agnostic:
                places = torch.arange(labels.shape[0], device=labels.device)
                mask = mask.flatten(0, 1)[places * head.num_classes + labels, None]
            masks.append(mask[:, 0])
        mean = sum(masks) / len(masks)
        places = ((there | first).long().cumsum(dim=0) - 1).clamp(min=0)
        masks = mean[places] * there[:, None, None]
        return masks.reshape(boxes.shape[0], self.suppress.max_number, *mean.shape[1:])


def detections(boxes: Tensor, scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Blank what is not there, where the score is -1: boxes and scores 0, labels -1."""
    there = scores >= 0
    return boxes * there[..., None], scores.clamp(min=0), torch.where(there, labels, -1)


def rows_of(x: Tensor, width: int) -> Tensor:
    """Turn maps ``(N, A * width, H, W)`` into rows ``(N, H * W * A, width)``."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], -1, width)


def check_kind(part: nn.Module, kinds: type | tuple[type, ...], what: str) -> None:
    """Check that a part is what the graph is written for, and not a class that inherits from it.

    Raises:
        UsageError: If it is not.
    """
    kinds = kinds if isinstance(kinds, tuple) else (kinds,)
    if type(part) not in kinds:
        names = " and ".join(kind.__name__ for kind in kinds)
        raise UsageError(f"The {what} {type(part).__name__} cannot be exported: only {names} can.")


def _with_image(boxes: Tensor) -> Tensor:
    """Put the image's index in front of boxes ``(N, n, 4)``: ``(N * n, 5)``."""
    images = torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype)
    images = images[:, None, None].expand_as(boxes[..., :1])
    return torch.cat([images, boxes], dim=2).flatten(0, 1)


def _modules(part: nn.Module, cascade: bool, kind: type | None = None) -> nn.ModuleList:
    parts = list(part) if cascade else [part]
    return nn.ModuleList(map(kind, parts) if kind else parts)
