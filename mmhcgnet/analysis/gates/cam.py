"""Class activation maps of any MMPretrain classifier, by the package grad-cam."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mmhcgnet.analysis.report import new_figure
from mmhcgnet.engine.models import is_detector
from mmhcgnet.errors import UsageError, did_you_mean

from .images import Sample, lay_over

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Those that need one pass forward and one back; the others of the package need hundreds.
METHODS = {
    "gradcam": "GradCAM",
    "gradcam++": "GradCAMPlusPlus",
    "xgradcam": "XGradCAM",
    "hirescam": "HiResCAM",
    "layercam": "LayerCAM",
    "eigencam": "EigenCAM",
    "eigengradcam": "EigenGradCAM",
}


def _import_grad_cam() -> ModuleType:
    try:
        import pytorch_grad_cam
    except ImportError as error:
        raise UsageError(
            "Class activation maps need the package grad-cam: pip install 'mmhcgnet[analysis]'"
        ) from error
    return pytorch_grad_cam


def check_method(method: str) -> None:
    """Check that there is such a method and the package grad-cam, which computes it.

    Raises:
        UsageError: If not.
    """
    if method not in METHODS:
        raise UsageError(
            f"The method {method} does not exist{did_you_mean(method, METHODS)}: choose one of "
            f"{', '.join(METHODS)}."
        )
    _import_grad_cam()


def check_layer(model: nn.Module, layer: str | None) -> None:
    """Check that a model has class activation maps, and of this layer.

    Args:
        model: Any model of a config.
        layer: Name of a layer in it; ``None`` for the last map of the backbone.

    Raises:
        UsageError: If it is not a classifier or has no such layer.
    """
    if is_detector(model) or not hasattr(model, "head"):
        raise UsageError(
            "A class activation map shows what speaks for a class of an image: it needs a "
            "classifier of MMPretrain."
        )
    layers = dict(model.named_modules())
    if layer is None and "backbone" not in layers:
        raise UsageError("The classifier has no part called backbone: name a layer.")
    if layer is not None and layer not in layers:
        raise UsageError(
            f"The classifier has no layer {layer!r}{did_you_mean(layer, layers)}: give "
            "its name in the model, such as backbone.stages.3."
        )


def activation_map(
    model: nn.Module,
    image: Tensor,
    method: str = "gradcam",
    target: int | None = None,
    layer: str | None = None,
) -> tuple[Tensor, int, float]:
    """Compute the class activation map of an image.

    Args:
        model: A classifier in eval mode that :func:`check_layer` let pass.
        image: Normalised image of shape ``(C, H, W)`` on the model's device.
        method: A key of ``METHODS``.
        target: Class to explain, from 0. Defaults to the one with the highest score.
        layer: Name of the layer whose output is weighed: maps ``(1, C, h, w)``, or tokens
            ``(1, extra + h * w, C)`` as those of a ViT. Defaults to the backbone's last map.

    Returns:
        The map ``(H, W)``, by grad-cam stretched so that it reaches from 0 to 1, the class, and
        its score before any softmax.

    Raises:
        UsageError: If there is no such class, the layer's output is not a map, or the package
            grad-cam is not installed.
    """
    package = _import_grad_cam()
    scores = _Scores(model, target)
    marker = _Marker()
    name = layer or "backbone"
    num_extra = getattr(getattr(model, "backbone", None), "num_extra_tokens", 0)

    def mark(_: nn.Module, __: tuple, output: Any) -> Any:
        # A copy is handed on, since what follows may work in place.
        if isinstance(output, Tensor):
            return marker(output).clone()
        if isinstance(output, tuple | list) and output and isinstance(output[-1], Tensor):
            return (*output[:-1], marker(output[-1]).clone())
        raise _no_map(name, type(output).__name__)

    def as_map(x: Tensor) -> Tensor:
        return _as_map(x, image.shape[1:], num_extra, name)

    handle = model.get_submodule(name).register_forward_hook(mark)
    try:
        # Only what follows the layer needs gradients.
        with _without_gradients(model), torch.enable_grad():
            cam = getattr(package, METHODS[method])(scores, [marker], reshape_transform=as_map)
            targets = [lambda output: output[scores.target]]
            heat = cam(image[None], targets)[0]
    finally:
        handle.remove()
    return torch.from_numpy(heat), scores.target, scores.score


class _Scores(nn.Module):
    """A classifier as grad-cam calls it, which keeps the class to explain and its score."""

    def __init__(self, model: nn.Module, target: int | None) -> None:
        super().__init__()
        self.model = model
        self.target = target
        self.score = float("nan")

    def forward(self, images: Tensor) -> Tensor:
        scores = self.model(images, mode="tensor")
        if not isinstance(scores, Tensor) or scores.dim() != 2:
            raise UsageError(
                f"The head of the classifier, {type(self.model.head).__name__}, gives no score to "
                "each class, which a class activation map needs."
            )
        classes = scores.shape[1]
        if self.target is None:
            self.target = int(scores[0].argmax())
        if self.target not in range(classes):
            raise UsageError(
                f"target must be a class from 0 to {classes - 1}, as the classifier has {classes}, "
                f"got {self.target}."
            )
        self.score = scores[0, self.target].item()
        return scores


class _Marker(nn.Module):
    """The layer that grad-cam hooks: hands a map on, as the beginning of what has gradients."""

    def forward(self, x: Tensor) -> Tensor:
        return x.detach().requires_grad_()


@contextmanager
def _without_gradients(model: nn.Module) -> Iterator[None]:
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _as_map(x: Tensor, size: Sequence[int], num_extra: int, layer: str) -> Tensor:
    """Return ``(1, C, h, w)`` of itself or of tokens ``(1, num_extra + h * w, C)``.

    Args:
        x: Output of the layer.
        size: Height and width of the image, whose proportions the tokens share.
        num_extra: Tokens that precede those of the image, such as a class token.
        layer: Name of the layer, for messages.
    """
    if x.dim() == 3:
        tokens = x[:, num_extra:]
        height = round((tokens.shape[1] * size[0] / size[1]) ** 0.5)
        if height and tokens.shape[1] % height == 0:
            return tokens.unflatten(1, (height, -1)).permute(0, 3, 1, 2)
    if x.dim() != 4:
        raise _no_map(layer, f"tensor of shape {tuple(x.shape)}")
    return x


def _no_map(layer: str, what: str) -> UsageError:
    return UsageError(
        f"The output of {layer} is not a map but a {what}: name another layer, for a "
        "ViT that before its last attention, backbone.layers.11.ln1."
    )


def cam_figure(sample: Sample, heat: Tensor, title: str) -> Figure:
    """Draw an image and its class activation map side by side.

    Args:
        sample: The image.
        heat: Map of the size of the network's input, from 0 to 1.
        title: What is explained.
    """
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    height, width = sample.picture.shape[:2]
    figure = new_figure(7, 3.5 * min(height / width, 2) + 0.4)
    left, right = figure.subplots(1, 2)
    left.imshow(sample.picture)
    colours = ScalarMappable(Normalize(0, 1), "inferno")
    right.imshow(lay_over(sample.picture, heat, sample.covered, colours))
    for ax in (left, right):
        ax.set_axis_off()
    figure.suptitle(title, fontsize=9)
    return figure
