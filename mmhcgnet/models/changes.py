"""What the memory-saving and the deployed form know of a network, and whether it is still that.

They compute what modules compute without calling all of them. That is the same as long as every
module is of the kind that was built, has its own ``forward``, its own parameters and no hook.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import chain
from operator import itemgetter
from typing import Any

from mmcv.cnn import HSigmoid, HSwish, Swish
from mmengine.model import Sequential
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from .blocks import SMG, HybridBlock, TransitionInput
from .gates import ForgetGate, UpdateGate
from .layers import PreActConv, PreActivation

# Without parameters or random numbers, so that they can run again.
ACTIVATIONS = {
    *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SELU, nn.CELU, nn.GELU, nn.SiLU, nn.Mish),
    *(nn.Sigmoid, nn.Tanh, nn.Hardtanh, nn.Hardsigmoid, nn.Hardswish, nn.Softplus, nn.Identity),
    *(HSigmoid, HSwish, Swish),
}
_GATE = ("reduce", "norm", "act")
# The parts of what is built; the kernel of the convolutions in a module.
_PARTS = {
    SMG: ("squeeze1", "squeeze2", "branch3", "branch5", "update_gate", "forget_gate"),
    PreActConv: ("norm", "act", "conv"),
    PreActivation: ("norm", "act"),
    Sequential: ("norm", "act", "conv"),  # in the stem
    UpdateGate: (*_GATE, "attention3", "attention5", "expand3", "expand5"),
    ForgetGate: (*_GATE, "attention", "expand"),
    TransitionInput: ("squeeze1",),
}
_PARTS = {kind: frozenset(parts) for kind, parts in _PARTS.items()}
_CONVS = dict(squeeze1=1, squeeze2=3, branch3=3, branch5=3)
# As they are now: someone may put another function into a class later.
_FORWARDS = {
    kind: kind.forward
    for kind in (*_PARTS, *ACTIVATIONS, HybridBlock, nn.Conv2d, nn.Linear, nn.MaxPool2d)
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_NORM_FORWARDS = (_BatchNorm.forward, nn.SyncBatchNorm.forward)


class _Changed(Exception):
    """A module that is not what was built."""

    def __init__(self, module: nn.Module, reason: str) -> None:
        super().__init__(reason)
        self.module = module
        self.reason = reason


def find_change(network: nn.Module, activations: Collection[type]) -> str | None:
    """Find the first part of a network that the other forms could not take the place of.

    Args:
        network: An HCGNet.
        activations: The types of activations that a form knows.

    Returns:
        A name and what is the matter, as in ``stages.0.1.branch3.conv has a hook``, or ``None``.
    """
    try:
        _check_stem(network.stem, activations)
        for block in network.stages:
            _check_calls(block, HybridBlock)
            for module in block.children():
                _check_module(module, activations)
        *transitions, last = (*network.transitions, None)[: len(network.stages)]
        for transition in transitions:
            _check_module(transition, activations)
        if last is not None:
            _check_parts(last, TransitionInput)
            _check_parts(last.squeeze1, PreActivation)
            _check_activation(last.squeeze1, activations)
        else:
            _check_activation(network, activations)
    except _Changed as change:
        names = {module: name for name, module in network.named_modules()}
        return f"{names[change.module]} {change.reason}"
    return None


def fingerprint(modules: Sequence[nn.Module]) -> list[Any]:
    """Return all that :func:`find_change` looks at, in a tenth of the time that it takes.

    Args:
        modules: All modules of a network.
    """
    own = [vars(module) for module in modules]
    tensors = chain(map(itemgetter("_parameters"), own), map(itemgetter("_buffers"), own))
    geometry = itemgetter("kernel_size", "stride", "padding", "dilation", "groups", "padding_mode")
    mode = itemgetter("momentum", "track_running_stats")
    return [
        [*map(type, modules)],
        [*map(dict, map(itemgetter("_modules"), own))],
        [*map(type, chain.from_iterable(map(dict.values, tensors)))],
        [geometry(each) for each in own if "padding_mode" in each],
        [mode(each) for each in own if "momentum" in each],
        any("forward" in each for each in own),
        any(any(map(itemgetter(name), own)) for name in _HOOKS),
        [kind.forward for kind in _FORWARDS],
    ]


def _check_stem(stem: nn.Module, activations: Collection[type]) -> None:
    _check_calls(stem, Sequential)
    *cells, last = stem.children()
    for cell in cells:
        _check_parts(cell, Sequential)
        _check_activation(cell, activations)
        _check_calls(cell.conv, nn.Conv2d)
        if cell.conv.padding_mode != "zeros":
            raise _Changed(cell.conv, "does not pad with zeros")
    _check_calls(last, nn.MaxPool2d if cells else nn.Conv2d)


def _check_module(module: nn.Module, activations: Collection[type]) -> None:
    _check_parts(module, SMG)
    dilations = (1, module.squeeze_dilation, module.dilation, 2 * module.dilation)
    for (name, size), dilation in zip(_CONVS.items(), dilations, strict=True):
        cell = getattr(module, name)
        _check_parts(cell, PreActConv)
        _check_activation(cell, activations)
        _check_conv(cell.conv, size, dilation, has_bias=False)
    for branch in (module.branch3.conv, module.branch5.conv):
        if branch.groups != module.out_channels or branch.stride != (1, 1):
            raise _Changed(branch, "is not depthwise")
    for name, kind in (("update_gate", UpdateGate), ("forget_gate", ForgetGate)):
        gate = getattr(module, name)
        _check_parts(gate, kind)
        for part, layer in gate.named_children():
            if part == "norm":
                _check_norm(layer)
            elif part == "act":
                _check_calls(layer, nn.Tanh)
            elif part.startswith("attention"):
                _check_conv(layer, 1, 1, has_bias=True)
            else:
                _check_calls(layer, nn.Linear)
                _check_bias(layer, has_bias=True)


def _check_parts(module: nn.Module, kind: type) -> None:
    _check_calls(module, kind)
    if module._modules.keys() != _PARTS[kind]:
        raise _Changed(module, "has other parts")


def _check_activation(cell: nn.Module, activations: Collection[type]) -> None:
    _check_norm(cell.norm)
    kind = type(cell.act)
    if kind not in activations:
        raise _Changed(cell.act, f"is a {kind.__name__}")
    _check_calls(cell.act, kind)


def _check_norm(norm: nn.Module) -> None:
    if not isinstance(norm, _BatchNorm) or type(norm).forward not in _NORM_FORWARDS:
        raise _Changed(norm, f"is a {type(norm).__name__}")
    if norm.running_mean is None or not norm.track_running_stats:
        raise _Changed(norm, f"is a {type(norm).__name__} without running statistics")
    _check_instance(norm)


def _check_conv(conv: nn.Module, size: int, dilation: int, has_bias: bool) -> None:
    _check_calls(conv, nn.Conv2d)
    padding = dilation * (size // 2)
    geometry = (conv.kernel_size, conv.dilation, conv.padding, conv.padding_mode)
    if geometry != ((size,) * 2, (dilation,) * 2, (padding,) * 2, "zeros"):
        raise _Changed(conv, "has another kernel, dilation or padding than it was built with")
    _check_bias(conv, has_bias)


def _check_bias(layer: nn.Module, has_bias: bool) -> None:
    if (layer.bias is not None) is not has_bias:
        raise _Changed(layer, f"has {'a' if layer.bias is not None else 'no'} bias")


def _check_calls(module: nn.Module, kind: type) -> None:
    if type(module) is not kind:
        raise _Changed(module, f"is a {type(module).__name__}")
    if kind.forward is not _FORWARDS[kind]:
        raise _Changed(module, "has another forward than its class was written with")
    _check_instance(module)


def _check_instance(module: nn.Module) -> None:
    own = module.__dict__
    if "forward" in own:
        raise _Changed(module, "has a forward of its own")
    if any(own[name] for name in _HOOKS):
        raise _Changed(module, "has a hook")
    for parameter in own["_parameters"].values():
        if parameter is not None and type(parameter) is not nn.Parameter:
            raise _Changed(module, f"has a parameter that is a {type(parameter).__name__}")
