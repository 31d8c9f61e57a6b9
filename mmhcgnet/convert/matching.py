"""Compare what a file holds with what a layout names, and say all that differs in one error."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mmhcgnet.errors import ReadableError
from mmhcgnet.version import __version__
from mmhcgnet.weights import CONVERTERS, listed, official_layout

Shapes = dict[str, tuple[int, ...]]


class LayoutError(ReadableError, ValueError):
    """The weights are not those that a layout names; the message is a clause that says why."""


@dataclass(frozen=True)
class Converted:
    """What a conversion makes of a checkpoint.

    Args:
        arch: Name of the network.
        num_classes: Classes of the network.
        epoch: Epoch that the checkpoint states, if it does.
        accuracy: Accuracy that the checkpoint states, as it states it.
        state_dict: The tensors in the new layout.
        checkpoint: What is to be written, the tensors included.
        file_name: Name of the file that our configs expect, if they expect one.
        best_so_far: Whether the accuracy is the best of a training up to this epoch, as MMEngine
            keeps it, and maybe not that of these very weights.
    """

    arch: str
    num_classes: int
    epoch: float | None
    accuracy: float | None
    state_dict: dict[str, Tensor]
    checkpoint: dict
    file_name: str | None
    best_so_far: bool = False


def check_layout(weights: dict[str, Any], wanted: str) -> None:
    """Check that the names are those of one of the authors' programs.

    Args:
        weights: Tensors by name.
        wanted: ``'classification'`` or ``'detection'``.

    Raises:
        LayoutError: If they are not. It says what they are instead.
    """
    layout = official_layout(weights)
    if layout == wanted:
        return
    if layout is not None:
        raise LayoutError(
            f"it is in the layout of the authors' {layout} program, which "
            f"tools/model_converters/{CONVERTERS[layout]} converts"
        )
    if any(name.startswith("backbone.stages.") for name in weights):
        raise LayoutError("it is in our layout already")
    raise LayoutError("it holds no HCGNet in the authors' layout")


def count_rows(weights: dict[str, Any], layer: str) -> int:
    """Outputs of a layer by the shape of its weight or else its bias; 0 where neither shows it."""
    shapes = [_shape(weights.get(f"{layer}.{kind}")) for kind in ("weight", "bias")]
    return next((shape[0] for shape in shapes if isinstance(shape, tuple) and shape), 0)


def recognise(weights: dict[str, Any], candidates: dict[str, Shapes], arch: str | None) -> str:
    """Recognise a network by the names and shapes of its tensors.

    Args:
        weights: Tensors by name.
        candidates: What each network holds.
        arch: The network that the user says it is.

    Returns:
        The candidate of which most tensors are there.

    Raises:
        LayoutError: If there is none, or it is another network than the user says.
    """
    found = {(name, _shape(value)) for name, value in weights.items()}
    scores = {name: len(found & set(shapes.items())) for name, shapes in candidates.items()}
    best = max(scores, key=scores.__getitem__)
    if not scores[best]:
        raise LayoutError("it holds no tensor of an HCGNet")
    if arch is not None and arch.upper() != best:
        raise LayoutError(f"by its shapes it is HCGNet-{best} and not HCGNet-{arch.upper()}")
    return best


def check_match(weights: dict[str, Any], wanted: Shapes, twice: Iterable[str], what: str) -> None:
    """Check that the weights are exactly the wanted ones, and add norms' counters if all lack.

    They may have any precision, which the converters keep: PyTorch loads half precision into a
    network in fp32. What counts batches is an integer of 64 bits.

    Args:
        weights: Tensors by name.
        wanted: Shapes by name.
        twice: Names that the file has twice.
        what: What has these shapes, for the message.

    Raises:
        LayoutError: If not. It lists what is missing, unknown, of another shape or type, or twice
            there.
    """
    counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
    if not counters & weights.keys():
        # As PyTorch saved norms before 0.4.1; they only count when momentum is None.
        weights |= {name: torch.zeros(wanted[name], dtype=torch.int64) for name in counters}
    other = [
        f"{name} {_shape(weights[name])} instead of {shape}"
        for name, shape in wanted.items()
        if name in weights and _shape(weights[name]) != shape
    ]
    other_type = [
        f"{name} {str(weights[name].dtype).removeprefix('torch.')} instead of {wanted_type}"
        for name in wanted
        if isinstance(weights.get(name), Tensor)
        and (wanted_type := _other_type(name, weights[name].dtype))
    ]
    problems = {
        "missing": [name for name in wanted if name not in weights],
        "unknown": [name for name in weights if name not in wanted],
        "of another shape": other,
        "of another type": other_type,
        "twice, with and without 'module.'": [*twice],
    }
    problems = [listed(names, kind) for kind, names in problems.items() if names]
    if problems:
        raise LayoutError(f"compared with {what} it has {', '.join(problems)}")


def compact(tensor: Tensor, shape: Iterable[int]) -> Tensor:
    """Copy a tensor into memory of its own, so that no larger storage is written with it."""
    return tensor.detach().reshape(tuple(shape)).clone(memory_format=torch.contiguous_format)


def stated_meta(checkpoint: dict) -> dict:
    """The ``meta`` of an MM checkpoint; empty where there is none."""
    meta = checkpoint.get("meta")
    return meta if isinstance(meta, dict) else {}


def best_accuracy(checkpoint: dict) -> float | None:
    """The best top-1 accuracy of a training so far, in per cent, where MMEngine's file states it.

    MMEngine states the score without the metric's name, which only the best checkpoint's has.
    """
    hub = checkpoint.get("message_hub")
    info = hub.get("runtime_info") if isinstance(hub, dict) else None
    if not isinstance(info, dict):
        return None
    best = os.path.basename(str(info.get("best_ckpt")))
    return number(info.get("best_score")) if best.startswith("best_accuracy_top1_") else None


def number(value: Any) -> float | None:
    """The number that a checkpoint states as one, or as a tensor of one entry; else None."""
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def make_meta(arch: str, epoch: float | None, accuracy: float | None) -> dict:
    """The ``meta`` of a converted checkpoint."""
    return dict(
        arch=arch,
        epoch=epoch,
        accuracy=accuracy,
        mmhcgnet_version=__version__,
        source="https://github.com/winycg/HCGNet, for research only",
    )


def _shape(value: Any) -> tuple[int, ...] | str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return tuple(value.shape) if value.layout is torch.strided else "a sparse tensor"


def _other_type(name: str, dtype: torch.dtype) -> str | None:
    """Say what a tensor of this name has to be, if it is something else."""
    if name.endswith(".num_batches_tracked"):
        return None if dtype == torch.int64 else "int64"
    return None if dtype.is_floating_point else "a floating-point type"
