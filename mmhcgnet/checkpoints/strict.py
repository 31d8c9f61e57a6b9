"""Loading weights into a model completely or not at all.

MMEngine loads what fits by name and shape and logs the rest: a test of a checkpoint of which
nothing fits then measures random weights.
"""

from __future__ import annotations

import re
from collections import namedtuple
from collections.abc import Iterable

import torch
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner.checkpoint import get_state_dict
from torch import nn

from mmhcgnet.errors import UsageError
from mmhcgnet.weights import faults, listed, not_finite

AVERAGED = "module."  # leads the names in an ema_state_dict
_OTHER_SHAPE = re.compile(r"size mismatch for (\S+): .*?(\[.*?\]).*?(\[.*?\])")
_Keys = namedtuple("_Keys", ["missing_keys", "unexpected_keys"])


def load_strictly(
    model: nn.Module, weights: dict, path: str, starts: bool = False, averaged: dict | None = None
) -> None:
    """Load weights into a model if they are exactly its own.

    Args:
        model: The model, without a wrapper.
        weights: Its tensors by name.
        path: Where they come from.
        starts: Whether a training is to start from them, in which parts may be replaced.
        averaged: EMAHook's weights, which are to be finite, too.

    Raises:
        UsageError: If a tensor is missing, unknown, of another shape or not finite; the model then
            has taken what fits.
    """
    # A model may hold an infinity by design, as in a mask.
    constant = set(not_finite(dict(model.named_buffers())))
    _check_fit(model, weights, path, starts)  # shapes before values, which a file can make endless
    averaged = {
        name: tensor
        for name, tensor in (averaged or {}).items()
        if getattr(tensor, "shape", None) == _counterpart(name, weights)
    }
    tensors = {
        name: tensor
        for name, tensor in (*weights.items(), *averaged.items())
        if name.removeprefix(AVERAGED) not in constant
    }
    if broken := faults(tensors):
        raise UsageError(
            f"The checkpoint {path} is broken: {broken}; take one from before its training went "
            "astray."
        )


def check_averaged(averaged: dict, weights: dict, path: str) -> None:
    """Check the averaged weights, which EMAHook exchanges with the others by name.

    Raises:
        UsageError: If they are of a different model than the others.
    """
    other = [
        name
        for name, tensor in averaged.items()
        if name.startswith(AVERAGED)
        and getattr(tensor, "shape", None) != _counterpart(name, weights)
    ]
    if other:
        raise UsageError(
            f"The averaged weights in the checkpoint {path} are of a different model than its "
            f"state_dict: {listed(other, 'without counterpart')}; take another checkpoint."
        )


def _counterpart(name: str, weights: dict) -> torch.Size | str:
    """The shape of the tensor that an averaged one is exchanged with."""
    return getattr(weights.get(name.removeprefix(AVERAGED)), "shape", "none")


def _check_fit(model: nn.Module, weights: dict, path: str, starts: bool) -> None:
    missing, unknown, failed = _load(model, weights)
    missing = [name for name in missing if "num_batches_tracked" not in name]
    if not missing and not unknown and not failed:
        return
    shapes = [match for text in failed if (match := _OTHER_SHAPE.search(text))]
    others = [text for text in failed if not _OTHER_SHAPE.search(text)]
    kinds = {
        "missing": missing,
        "unknown": unknown,
        "of another shape": [f"{m[1]} {_shape(m[2])} instead of {_shape(m[3])}" for m in shapes],
        "not loaded": others,
    }
    counts = ", ".join(listed(names, kind) for kind, names in kinds.items() if names)
    advice = "name the checkpoint of this config's model"
    parts = _heads([match[1] for match in shapes], [*missing, *unknown])
    if starts and parts:
        advice += (
            ", or let these parts start from scratch with "
            f"default_hooks.strict_load.replaced=[{','.join(parts)}]"
        )
    elif starts and not any("backbone." in name for name in (*missing, *unknown, *failed)):
        advice += (
            ", or take the backbone's weights alone, with load_from=None and "
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=…, prefix='backbone.')"
        )
    own = len(get_state_dict(model))
    raise UsageError(
        f"The checkpoint {path} does not fit the model of {own} tensors: {counts}; {advice}."
    )


def _load(model: nn.Module, weights: dict) -> tuple[list[str], list[str], list[str]]:
    """Load weights as MMEngine does and return what is missing, unknown and in error.

    MMEngine's own function says so in a message, and in a distributed run on rank 0 alone.
    """
    missing: list[str] = []
    unknown: list[str] = []
    failed: list[str] = []
    metadata = getattr(weights, "_metadata", {})

    def load(module: nn.Module, weights: dict, prefix: str) -> None:
        if is_model_wrapper(module) or isinstance(module, BaseTTAModel):
            module = module.module
        of_module = metadata.get(prefix[:-1], {})
        module._load_from_state_dict(weights, prefix, of_module, True, missing, unknown, failed)
        for name, child in module._modules.items():
            if child is None:
                continue
            start = f"{prefix}{name}."
            load(child, {key: weights[key] for key in weights if key.startswith(start)}, start)
        for hook in module._load_state_dict_post_hooks.values():
            hook(module, _Keys(missing, unknown))

    load(model, weights.copy(), "")
    return missing, unknown, failed


def _shape(text: str) -> str:
    """``"[5, 64]"`` as a tuple."""
    return str(tuple(int(size) for size in re.findall(r"\d+", text)))


def _heads(layers: list[str], tensors: list[str]) -> list[str]:
    """What one replaces for other classes, if all that differs is in heads.

    Args:
        layers: Tensors of another shape, of which the layer is replaced.
        tensors: Tensors that are missing or unknown, of which the head is replaced.
    """
    if not all("head" in name and len(name) < 1000 for name in (*layers, *tensors)):
        return []
    parts = [name.rpartition(".")[0] for name in layers]
    parts += [re.sub(r"(.*head[^.]*).*", r"\1", name) for name in tensors]
    found = set(parts)
    parts = [part for part in dict.fromkeys(parts) if not found & parts_above([part])]
    return parts if all("head" in part for part in parts) else []


def parts_above(names: Iterable[str]) -> set[str]:
    """All that names of tensors are under, as ``a`` and ``a.b`` for ``a.b.weight``."""
    found = set()
    for name in names:
        while (name := name.rpartition(".")[0]) and name not in found:
            found.add(name)
    return found
