"""What is in a dict of tensors by name, as checkpoints hold it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

CONVERTERS = dict(classification="official_to_mmpretrain.py", detection="official_to_mmdet.py")


def find_weights(checkpoint: dict) -> dict:
    """The tensors by name: MMEngine's ``state_dict``, the authors' ``net``, or the dict itself."""
    for key in ("state_dict", "net"):
        if isinstance(checkpoint.get(key), dict):
            return checkpoint[key]
    return checkpoint


def without_tensor(weights: dict[str, Any]) -> list[str]:
    """Name what is no tensor, without the extra state of modules, which may be anything."""
    return [
        name
        for name, value in weights.items()
        if not isinstance(value, Tensor) and not name.endswith("_extra_state")
    ]


def not_finite(weights: dict) -> list[str]:
    """Name the tensors that hold NaN or an infinity."""
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    return [name for name, tensor in tensors.items() if not is_finite(tensor)]


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor an infinity."""
    if tensor.is_floating_point() and tensor.itemsize == 1:
        tensor = tensor.float()  # PyTorch does not test numbers of 8 bits
    return bool(torch.isfinite(tensor).all())


def faults(weights: dict[str, Tensor]) -> str:
    """Say which tensors a network cannot compute with in fp32; empty if it can with all."""
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    numbers = {
        # What is beyond the range of fp32 becomes an infinity in the network.
        "not finite": [
            name
            for name, tensor in tensors.items()
            if not is_finite(tensor.float() if tensor.dtype == torch.float64 else tensor)
        ],
        "below zero": [
            name
            for name, tensor in tensors.items()
            if name.endswith("running_var") and bool((tensor.float() < 0).any())
        ],
    }
    return ", ".join(listed(names, kind) for kind, names in numbers.items() if names)


def official_layout(names: Iterable[str]) -> str | None:
    """Recognise the authors' own layouts by the names of the tensors.

    Returns:
        ``'classification'``, ``'detection'``, or ``None`` if it is neither of them.
    """
    names = [str(name).removeprefix("module.") for name in names]
    if not any(".conv1_1x1." in name for name in names):
        return None
    backbone = any(name.startswith("backbone.") for name in names)
    return "detection" if backbone else "classification"


def explain_official(path: str, layout: str) -> str:
    """Say what to do with a file in one of the authors' layouts."""
    return (
        f"The checkpoint {path} is in the layout of the authors' {layout} program: convert it "
        f"with `python tools/model_converters/{CONVERTERS[layout]} {path}` and name the file that "
        "this writes."
    )


def listed(names: list[str], what: str, most: int = 8) -> str:
    """Count and name the first few, as in ``2 missing (norm.bias, stem.conv.weight)``."""
    more = f", … {len(names) - most} more" if len(names) > most else ""
    shown = ", ".join(name if len(name) <= 200 else f"{name[:200]}…" for name in names[:most])
    return f"{len(names)} {what}" + (f" ({shown}{more})" if names else "")


def strip_module(weights: dict[Any, Any]) -> tuple[dict[str, Any], list[str]]:
    """Take ``module.`` of ``DataParallel`` off the names.

    Returns:
        The weights, and the names that two of them then have.
    """
    stripped, twice = {}, []
    for key, value in weights.items():
        name = str(key).removeprefix("module.")
        if name in stripped:
            twice.append(name)
        stripped[name] = value
    return stripped, twice


def holds_deployed(names: Iterable[str]) -> bool:
    """Recognise the weights of a deployed HCGNet by the names of the tensors."""
    return any(str(name).endswith(".squeeze1.norm.low") for name in names)
