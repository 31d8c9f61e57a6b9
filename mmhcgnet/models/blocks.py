"""The blocks of HCGNet: SMG modules, hybrid blocks of them, and the stem (figures 2 and 3).

Yang et al., Gated Convolutional Networks with Hybrid Connectivity for Image Classification,
AAAI 2020, https://arxiv.org/abs/1908.09699. Read ``layers.py`` and ``gates.py`` first.
This is the plain form; a training normally runs ``memory_saving.py``, which computes the same.

An SMG module, with the names of its parts. In front of a convolution stand norm and activation::

    features       squeeze cell                                                 output
    (N, C_in, H, W)                                                             (N, C, H', W')
        |     +----------+     +----------+  X'                       +-----+
        +---->| squeeze1 |---->| squeeze2 |--+----------------------->| f * |----> + ---->
              | 1x1      |     | 3x3, g, S|  |                        +-----+      ^
              +----------+     +----------+  |                           ^         |
                                             |   +-------------+  f      |         |
                                             +-->| forget_gate |---------+         |
                                             |   +-------------+ (N, C)            |
                    multi-scale excitation   |                                     |
                                             |   +---------+     +-------------+ v |
                                             +-->| branch3 |---->|             |---+
                                             |   +---------+     | update_gate | (N, C)
                                             |   +---------+     |             |
                                             +-->| branch5 |---->|             |
                                                 +---------+     +-------------+

In a hybrid block, a module reads the block's input and the outputs of all modules before it.
"""

from __future__ import annotations

import copy
import itertools
from collections import OrderedDict
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from mmengine.model import BaseModule, Sequential
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from .architecture import Architecture, scaled
from .gates import ForgetGate, UpdateGate
from .layers import (
    LayerConfigs,
    PreActConv,
    PreActivation,
    build_act,
    build_conv,
    build_norm,
    concatenate,
    is_transformed,
)


def build_branches(
    channels: int, cfgs: LayerConfigs, dilation: int = 1
) -> tuple[PreActConv, PreActConv]:
    """Build the multi-scale excitation: depthwise convolutions of ``(N, C, H, W)``.

    They are named by their receptive fields: ``branch5`` is a 3x3 of dilation 2 that stands in for
    5x5. Small at first, as the gates are neutral: the vector grows with what it is good for.
    """
    init_cfg = dict(type="Normal", std=0.01, override=dict(name="conv"))
    small = dict(groups=channels, init_cfg=init_cfg)
    branch3 = PreActConv(channels, channels, 3, cfgs, dilation=dilation, **small)
    branch5 = PreActConv(channels, channels, 3, cfgs, dilation=2 * dilation, **small)
    return branch3, branch5


class SMG(BaseModule):
    """Squeeze cell, multi-scale excitation, update gate and forget gate (figure 2).

    Args:
        in_channels: Channels of the input.
        out_channels: Channels ``C`` of the output.
        squeeze_ratio: Width of the squeeze over ``out_channels``, ``alpha``.
        groups: Groups of the 3x3 squeeze convolution, ``g``.
        stride: Stride of the 3x3 squeeze convolution, ``S``.
        reduction: Reduction in both gates, ``r_u`` and ``r_f``.
        cfgs: Configs of the layers.
        with_cp: Recompute the module in the backward pass instead of keeping its maps.
        squeeze_dilation: Dilation of the 3x3 squeeze convolution, that of its input. The paper's
            networks have none.
        dilation: Factor on the dilations of the branches, that of the output.

    Raises:
        ValueError: If the groups do not divide the widths or a gate has no hidden channel left.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        squeeze_ratio: float,
        groups: int,
        stride: int,
        reduction: int,
        cfgs: LayerConfigs,
        with_cp: bool = False,
        squeeze_dilation: int = 1,
        dilation: int = 1,
    ) -> None:
        super().__init__()
        squeeze_channels = scaled(out_channels, squeeze_ratio)
        for channels in (squeeze_channels, out_channels):
            if channels < 1 or channels % groups:
                raise ValueError(
                    f"A squeeze of {squeeze_channels} to {out_channels} channels cannot be split "
                    f"into {groups} groups: choose growth_rates, squeeze_ratio and groups (in "
                    "transitions transition_ratio, transition_squeeze_ratio and "
                    "transition_groups) such that it divides both widths."
                )
        if out_channels < reduction:
            raise ValueError(
                f"A gate on {out_channels} channels has nothing left after a reduction of "
                f"{reduction}: choose growth_rates and reduction (in transitions transition_ratio "
                "and transition_reduction) such that it is at most the channels."
            )
        self.out_channels = out_channels
        self.with_cp = with_cp
        self.squeeze_dilation = squeeze_dilation
        self.dilation = dilation
        self.squeeze1 = PreActConv(in_channels, squeeze_channels, 1, cfgs)
        self.squeeze2 = PreActConv(
            squeeze_channels, out_channels, 3, cfgs, stride, squeeze_dilation, groups
        )
        self.branch3, self.branch5 = build_branches(out_channels, cfgs, dilation)
        gate = (out_channels, reduction, cfgs.conv, cfgs.norm, cfgs.gate_act)
        self.update_gate = UpdateGate(*gate)
        self.forget_gate = ForgetGate(*gate)

    def forward(self, *features: Tensor, tap: Callable[[Tensor], object] | None = None) -> Tensor:
        """Read the concatenation of ``features``.

        Args:
            features: Maps of shape ``(N, C_i, H, W)`` whose channels add up to ``in_channels``.
            tap: Called with their activated concatenation, ``(N, in_channels, H, W)``. A
                transition's is the map of the stage in front of it.

        Returns:
            Map of shape ``(N, C, ceil(H / S), ceil(W / S))``.
        """
        if not self._recomputes():
            return self._forward(*features, tap=tap)

        def forward(*features: Tensor) -> tuple[Tensor, ...]:
            activated: list[Tensor] = []
            return self._forward(*features, tap=activated.append), *activated

        out, activated = self._recomputed(forward, *features)
        if tap is not None:
            tap(activated)
        return out

    def _forward(self, *features: Tensor, tap: Callable[[Tensor], object] | None = None) -> Tensor:
        x = self.squeeze2(self.squeeze1(concatenate(features), tap=tap))  # X', (N, C, H', W')
        v = self.update_gate(self.branch3(x), self.branch5(x))  # (N, C)
        f = self.forget_gate(x)  # (N, C)
        return torch.addcmul(v[:, :, None, None], f[:, :, None, None], x)  # O = f X' + v

    def _recomputes(self) -> bool:
        return (
            self.with_cp
            and torch.is_grad_enabled()
            and not torch.compiler.is_compiling()  # decides by itself what to keep
            and not is_transformed()
        )

    def _recomputed(self, function: Callable[..., tuple], *inputs: Tensor) -> tuple:
        """Call a function of the module, and once more in the backward pass."""

        def call(*arguments: Tensor) -> tuple:
            return function(*arguments[: len(inputs)])

        # The parameters are given so that autograd refuses a backward pass after they were changed.
        return checkpoint(
            call,
            *inputs,
            *self.parameters(),
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), _AsBefore(self)),
        )


class _AsBefore:
    """A context to recompute in the state of the first time.

    Modules have the modes and the tensors that they have when it is made, and running statistics do
    not move again.
    """

    def __init__(self, module: nn.Module) -> None:
        self.states = [(each, self._state(each)) for each in module.modules()]

    def __enter__(self) -> None:
        self.now = [(module, dict(vars(module))) for module, _ in self.states]
        for module, state in self.states:
            # Copied, as what is written into them below shall not stay.
            vars(module).update({key: copy.copy(value) for key, value in state.items()})
            if isinstance(module, _BatchNorm) and module.training:
                module.momentum = 0.0
                if module.num_batches_tracked is not None:  # SyncBN does not do without
                    module.num_batches_tracked = module.num_batches_tracked.clone()

    def __exit__(self, *_: object) -> None:
        for module, now in self.now:
            vars(module).update(now)

    @staticmethod
    def _state(module: nn.Module) -> dict[str, Any]:
        tensors = {name: copy.copy(vars(module)[name]) for name in ("_parameters", "_buffers")}
        return tensors | dict(training=module.training)


class HybridBlock(Sequential):
    """SMG modules of which each reads the block's input and every earlier module's output.

    Its output, the concatenation of all of them, has ``C_0 + n * k`` channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_0, H, W)`` to ``(N, C_0 + n * k, H, W)``."""
        features = [x]
        for module in self:
            features.append(module(*features))
        return concatenate(features)


class TransitionInput(BaseModule):
    """What a transition contributes to the output of the last stage that is built.

    Args:
        channels: Channels of the stage.
        cfgs: Configs of the layers.
    """

    def __init__(self, channels: int, cfgs: LayerConfigs) -> None:
        super().__init__()
        self.squeeze1 = PreActivation(channels, cfgs)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate ``(N, C, H, W)``."""
        return self.squeeze1(x)


def build_stem(in_channels: int, arch: Architecture, cfgs: LayerConfigs) -> Sequential:
    """Build the stem: ``(N, in_channels, H, W)`` to ``(N, C_0, H / stride, W / stride)``."""
    if arch.stem == "cifar":
        conv = build_conv(cfgs.conv, in_channels, arch.stem_channels, 3, padding=1, bias=False)
        return Sequential(OrderedDict(conv=conv))
    layers = []
    widths = (in_channels, 32, 32, arch.stem_channels)
    for i, (width, next_width) in enumerate(itertools.pairwise(widths)):
        conv = build_conv(
            cfgs.conv, width, next_width, 3, stride=2 if i == 0 else 1, padding=1, bias=False
        )
        norm = build_norm(cfgs.norm, next_width)
        act = build_act(cfgs.act)
        layers.append(Sequential(OrderedDict(conv=conv, norm=norm, act=act)))
    return Sequential(*layers, nn.MaxPool2d(3, stride=2, padding=1))
