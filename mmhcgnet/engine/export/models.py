"""What is exported: a model between raw images and results, with the names of both."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from torch import Tensor, nn

from mmhcgnet.engine.models import is_detector
from mmhcgnet.errors import UsageError

from .network import simplify
from .preprocessing import Normalize


@dataclasses.dataclass
class Exported:
    """A model that is ready to be written.

    Args:
        model: It takes uint8 images ``(N, H, W, 3)`` in RGB, and a detector the images' heights
            and widths without padding, int64 ``(N, 2)``.
        task: ``'detection'``, ``'classification'`` or ``'features'``.
        inputs: Names of the inputs.
        outputs: Names of the outputs with those of their dynamic dimensions.
        facts: What the one who runs it has to know.
        is_raw: Whether it takes what a network takes instead: fp32 ``(N, 3, H, W)``.
    """

    model: nn.Module
    task: str
    inputs: tuple[str, ...]
    outputs: dict[str, dict[int, str]]
    facts: dict[str, Any]
    is_raw: bool = False

    def example(self) -> tuple[Tensor, ...]:
        """Inputs to trace the model with: two images of 128 x 160 pixels of noise."""
        generator = torch.Generator().manual_seed(0)
        if self.is_raw:
            return (torch.randn(2, 3, 128, 160, generator=generator),)
        images = torch.randint(0, 256, (2, 128, 160, 3), generator=generator, dtype=torch.uint8)
        sizes = torch.tensor([[128, 160], [120, 150]])
        return (images, sizes)[: len(self.inputs)]


class _Detector(nn.Module):
    def __init__(self, detector: nn.Module, head: nn.Module, order: str) -> None:
        super().__init__()
        self.normalize = Normalize(detector.data_preprocessor, order)
        self.detector, self.head = detector, head

    def forward(self, images: Tensor, sizes: Tensor) -> tuple[Tensor, ...]:
        features = self.detector.extract_feat(self.normalize(images, sizes))
        return self.head(features, sizes)


class _Classifier(nn.Module):
    def __init__(self, classifier: nn.Module, order: str) -> None:
        super().__init__()
        self.normalize = Normalize(classifier.data_preprocessor, order)
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.normalize(images), mode="tensor").softmax(dim=1)


class _Backbone(nn.Module):
    def __init__(self, model: nn.Module, order: str) -> None:
        super().__init__()
        self.normalize = Normalize(model.data_preprocessor, order)
        self.backbone = model.backbone

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return self.backbone(self.normalize(images))


def export_model(model: nn.Module, order: str = "bgr") -> Exported:
    """Prepare a detector of MMDetection or a classifier of MMPretrain, which is used up.

    Args:
        model: The model, in eval mode on the CPU.
        order: The order of the channels that its data preprocessor is given in a test: ``'bgr'`` of
            pipelines that load files, ``'rgb'`` of data sets that hold images.

    Raises:
        UsageError: If a part of it cannot be exported; the message names it.
    """
    head = check_exportable(model)
    simplify(model)
    if head is not None:
        return _export_detector(model, head, order)
    names = {"scores": {0: "images"}}
    return Exported(_Classifier(model, order).eval(), "classification", ("images",), names, {})


def check_exportable(model: nn.Module) -> nn.Module | None:
    """Check that :func:`export_model` takes a model, which stays as it is.

    Returns:
        What finds the objects in the maps of a detector; ``None`` for a classifier.

    Raises:
        UsageError: If a part of it cannot be exported; the message names it.
    """
    if is_detector(model):
        return _detection_head(model)
    if not any(kind.__name__ == "ImageClassifier" for kind in type(model).__mro__):
        raise UsageError(
            f"The model {type(model).__name__} cannot be exported: only detectors of MMDetection "
            "and classifiers of MMPretrain can, and of other models the backbone alone."
        )
    _check_classification_head(model)
    return None


def _check_classification_head(model: nn.Module) -> None:
    from mmpretrain.models.heads import ClsHead

    head = type(getattr(model, "head", None))
    if not issubclass(head, ClsHead) or head._get_predictions is not ClsHead._get_predictions:
        raise UsageError(
            f"The head {head.__name__} cannot be exported: only heads whose scores are the softmax "
            "over classes can; export the backbone alone."
        )


def _detection_head(model: nn.Module) -> nn.Module:
    from .dense import Dense
    from .two_stage import TwoStage

    kinds = {kind.__name__: kind for kind in type(model).__mro__}
    for name, kind in (("TwoStageDetector", TwoStage), ("SingleStageDetector", Dense)):
        if name in kinds and type(model).predict is kinds[name].predict:
            return kind(model)
    raise UsageError(
        f"The detector {type(model).__name__} cannot be exported: only those of two stages, "
        "such as Mask R-CNN, and dense ones, such as RetinaNet, can."
    )


def _export_detector(model: nn.Module, head: nn.Module, order: str) -> Exported:
    names = {name: {0: "images"} for name in ("boxes", "scores", "labels")}
    facts = dict(pad_divisor=model.data_preprocessor.pad_size_divisor)
    if getattr(head, "has_masks", False):
        names["masks"] = {0: "images"}
        facts["mask_threshold"] = head.cfg.mask_thr_binary
    detector = _Detector(model, head, order).eval()
    return Exported(detector, "detection", ("images", "sizes"), names, facts)


def export_backbone(model: nn.Module, order: str = "bgr") -> Exported:
    """Prepare the backbone of a model alone, with all its maps; the model is used up.

    Args:
        model: A detector or a classifier, in eval mode on the CPU.
        order: As of :func:`export_model`.

    Raises:
        UsageError: If it has no backbone, or another data preprocessor than can be exported.
    """
    if not isinstance(getattr(model, "backbone", None), nn.Module):
        raise UsageError(f"The model {type(model).__name__} has no backbone.")
    exported = _Backbone(model, order).eval()
    simplify(exported)
    with torch.no_grad():
        maps = exported(torch.zeros(1, 64, 64, 3, dtype=torch.uint8))
    sides = {0: "images", 2: "map_height", 3: "map_width"}
    names = {
        f"map{i}": {axis: name if axis == 0 else f"{name}{i}" for axis, name in sides.items()}
        for i in range(len(maps))
    }
    return Exported(exported, "features", ("images",), names, {})


def export_network(network: nn.Module) -> Exported:
    """Prepare any network that takes images, fp32 ``(N, 3, H, W)``; it is used up.

    Args:
        network: The network, in eval mode on the CPU.
    """
    simplify(network)
    with torch.no_grad():
        outputs = network(torch.zeros(1, 3, 64, 64))
    number = 1 if isinstance(outputs, Tensor) else len(outputs)
    names = {f"output{i}": {0: "images"} for i in range(number)}
    return Exported(network, "features", ("images",), names, {}, is_raw=True)
