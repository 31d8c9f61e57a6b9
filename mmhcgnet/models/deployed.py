"""The deployed form of HCGNet: for inference alone, with everything folded that can be folded.

A batch norm in eval mode is the map ``s x + t``. Behind a convolution it goes into its weights. In
front of one, with ``b = -t / s``, ::

    ReLU(s x + t) = s max(x, b) + t    if s > 0
    ReLU(s x + t) = s min(x, b) + t    if s < 0

so that norm and activation in front of a 1x1 convolution are one pass that clamps, and ``s`` and
``t`` go into its weights and bias. The stem pools before its last ReLU, which is the same and reads
a quarter of the map.

The features of a block are written side by side into one map, of which each module reads the front,
instead of being concatenated again for every module.

What else is folded saves calls, which cost more than their work in a small batch. The two softmax
weights of eq. 9 are the sigmoid of a difference. The fully connected layers of both gates are one
matrix before the tanh and one behind it, with their norms in the first. The two depthwise branches
are one convolution with 5x5 taps, most of which are zero, and their attentions one matrix.
Attention needs no bias, which the softmax cancels.

Without groups, the maps within a module get channels of zeros up to whole vectors: a 3x3
convolution of 714 to 476 channels takes longer than one of 720 to 480.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .blocks import SMG
from .changes import find_change
from .gates import pooling_dtype, without_autocast
from .layers import is_transformed

FAR = 1e4  # for a value of a map, and well within what fp16 can represent
WIDTH = 16  # fp32 values in a vector of AVX-512; tensor cores want multiples of 4 to 16


@torch.no_grad()
def deploy(network: nn.Module) -> None:
    """Replace the layers of a network by those of the deployed form, which cannot be undone.

    Everything is checked before anything is changed.

    Raises:
        ValueError: If a part of the network is in training mode or is not what was built, has a
            hook, or has another norm than BN, another activation than ReLU or another convolution
            than PyTorch's.
    """
    if any(module.training for module in network.modules()):
        raise ValueError(
            "HCGNet cannot be deployed in training mode, as it cannot be trained afterwards: call "
            "eval() first."
        )
    if change := find_change(network, {nn.ReLU}):
        raise ValueError(
            "HCGNet is deployed as it was built, with BN, ReLU and PyTorch's convolutions, and in "
            f"this one {change}: use it as it is, without deploy=True."
        )
    dtype = next(network.parameters()).dtype
    network.double()  # to fold without rounding
    for cell in network.stem.children():
        if hasattr(cell, "norm"):
            cell.conv, cell.norm = _fold(cell.norm, cell.conv), nn.Identity()
    if network.arch.stem == "imagenet":
        *_, cell, pool = network.stem
        cell.act, network.stem[-1] = nn.Identity(), nn.Sequential(pool, cell.act)
    for i, block in enumerate(network.stages):
        if i in network.out_indices:  # others are folded with the transition that reads them
            reader = network.reader(i)
            reader.norm = Affine(*_scale_and_shift(reader.norm))
        network.stages[i] = DeployedBlock(*(DeployedSMG(module) for module in block))
        if i < len(network.stages) - 1:
            network.transitions[i] = DeployedSMG(network.transitions[i])
    network.to(dtype).requires_grad_(False)


class Clamp(nn.Module):
    """Clamp every channel of ``(N, C, H, W)`` between its own bounds.

    Args:
        low: Lower bounds, ``(C,)``.
        high: Upper bounds, ``(C,)``.
    """

    def __init__(self, low: Tensor, high: Tensor) -> None:
        super().__init__()
        self.register_buffer("low", low[:, None, None])
        self.register_buffer("high", high[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return the clamped map in the type of ``x``."""
        return x.clamp(self.low.to(x.dtype), self.high.to(x.dtype))


class Affine(nn.Module):
    """Scale and shift every channel of ``(N, C, H, W)``.

    Args:
        scale: ``(C,)``.
        shift: ``(C,)``.
    """

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__()
        self.register_buffer("scale", scale[:, None, None])
        self.register_buffer("shift", shift[:, None, None])

    def forward(self, x: Tensor) -> Tensor:
        """Return ``scale * x + shift`` in the type of ``x``."""
        return torch.addcmul(self.shift.to(x.dtype), x, self.scale.to(x.dtype))


class DeployedBlock(nn.Sequential):
    """A hybrid block for inference.

    Args:
        modules: The modules of the block, deployed.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_0, H, W)`` to ``(N, C_0 + n * k, H, W)``."""
        if not self._may_write(x):
            for module in self:
                x = torch.cat([x, module(x)], dim=1)
            return x
        end = x.shape[1]
        channels = end + sum(module.out_channels for module in self)
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        features = torch.empty(
            (x.shape[0], channels, *x.shape[2:]),
            dtype=x.dtype,
            device=x.device,
            memory_format=torch.channels_last if channels_last else torch.contiguous_format,
        )
        features[:, :end] = x
        for module in self:
            start, end = end, end + module.out_channels
            x, out = features[:, :start], features[:, start:end]
            # The compiler knows no out=, and a hook may have returned something else.
            result = module(x) if torch.compiler.is_compiling() else module(x, out)
            if result is not out:
                out.copy_(result)
        return features

    def _may_write(self, x: Tensor) -> bool:
        """Whether features can be written into one map, which autograd and traces do not know."""
        if torch.is_grad_enabled() and (
            x.requires_grad or any(parameter.requires_grad for parameter in self.parameters())
        ):
            return False
        return torch.compiler.is_compiling() or not (torch.jit.is_tracing() or is_transformed())


class DeployedSMG(nn.Module):
    """An SMG module for inference.

    It calls functions, as calling a layer takes longer than computing a small one.

    Args:
        module: The module in eval mode, whose layers are used up. A transition whose first norm is
            an :class:`Affine` already reads a map that is an output of the network, too.
    """

    def __init__(self, module: SMG) -> None:
        super().__init__()
        self.out_channels = module.out_channels
        conv1, conv2 = module.squeeze1.conv, module.squeeze2.conv
        _fold(module.squeeze2.norm, conv1)
        norm, act = module.squeeze1.norm, module.squeeze1.act
        if not isinstance(norm, Affine):
            norm, act = _clamp_before(conv1, norm), nn.Identity()
        self.squeeze1 = nn.Sequential(OrderedDict(norm=norm, act=act))
        self.stride, self.groups = conv2.stride, conv2.groups
        self.squeeze_dilation, self.dilation = module.squeeze_dilation, module.dilation
        widen = partial(_widen, multiple=WIDTH if self.groups == 1 else 1)
        self.weight1 = nn.Parameter(widen(conv1.weight))
        self.bias1 = nn.Parameter(widen(conv1.bias))
        self.weight2 = nn.Parameter(widen(widen(conv2.weight), dim=1))

        branches = (module.branch3, module.branch5)
        scales, shifts = zip(*(_scale_and_shift(b.norm) for b in branches), strict=True)
        self.scale = nn.Parameter(widen(torch.stack(scales), dim=1))
        self.shift = nn.Parameter(widen(torch.stack(shifts), dim=1))
        self.branches = _side_by_side(*(widen(branch.conv.weight) for branch in branches))

        update, forget = module.update_gate, module.forget_gate
        attentions = (a.weight.flatten(1) for a in (update.attention3, update.attention5))
        self.attentions = nn.Parameter(torch.block_diag(*(widen(a, dim=1) for a in attentions)))
        self.attention = nn.Parameter(widen(forget.attention.weight.flatten(1), dim=1))
        difference = update.expand3
        difference.weight -= update.expand5.weight
        difference.bias -= update.expand5.bias
        self.reduce_weight, self.reduce_bias = _stack(
            _fold(update.norm, update.reduce), _fold(forget.norm, forget.reduce)
        )
        self.expand_weight, self.expand_bias = _stack(difference, forget.expand)

    def forward(
        self,
        x: Tensor,
        out: Tensor | None = None,
        tap: Callable[[Tensor], object] | None = None,
    ) -> Tensor:
        """Read the concatenation of the features before.

        Args:
            x: Map of shape ``(N, in_channels, H, W)``.
            out: Where to write, ``(N, out_channels, H', W')``.
            tap: Called with what ``squeeze1`` makes of the map, ``(N, in_channels, H, W)``.
        """
        x = self.squeeze1(x)
        if tap is not None:
            tap(x)
        # A look-up as an attribute takes a microsecond each. DataParallel's replicas have them as
        # attributes alone.
        p = self._parameters or self.__dict__
        x = F.conv2d(x, p["weight1"], p["bias1"]).relu_()
        d = self.squeeze_dilation
        x = F.conv2d(x, p["weight2"], None, self.stride, d, d, self.groups)
        n, wide, h, w = x.shape
        c = self.out_channels
        rows = x.permute(0, 2, 3, 1).contiguous()  # as they are with channels last
        both = torch.addcmul(p["shift"], rows.unsqueeze(3), p["scale"]).relu_()  # (N, H', W', 2, C)
        both = both.flatten(3).permute(0, 3, 1, 2)
        d = self.dilation
        both = F.conv2d(both, p["branches"], None, 1, 2 * d, d, 2 * wide).permute(0, 2, 3, 1)
        z = _pool(rows.reshape(n, h * w, wide), p["attention"])[:, 0, :c]
        zs = _pool(both.reshape(n, h * w, 2 * wide), p["attentions"])  # each of both branches
        z3, z5 = zs[:, 0, :c], zs[:, 1, wide : wide + c]
        z = torch.cat([z3, z5, z], dim=1)
        hidden = torch.addmm(p["reduce_bias"], z, p["reduce_weight"]).tanh_()
        gates = torch.addmm(p["expand_bias"], hidden, p["expand_weight"]).sigmoid_()
        u3, f = gates.chunk(2, dim=1)
        v = torch.lerp(z5, z3, u3)
        return torch.addcmul(v.view(n, c, 1, 1), f.view(n, c, 1, 1), x[:, :c], out=out)


def _pool(rows: Tensor, attentions: Tensor) -> Tensor:
    """Pool ``(N, H*W, C)`` with ``k`` spatial attentions, ``(k, C)``, to ``(N, k, C)``."""
    dtype = pooling_dtype(rows)
    if rows.dtype != dtype:
        with without_autocast(rows):
            return _pool(rows.to(dtype), attentions.to(dtype)).to(rows.dtype)
    logits = attentions.expand(rows.shape[0], -1, -1).bmm(rows.transpose(1, 2))  # (N, k, H*W)
    return logits.softmax(dim=2).bmm(rows)


def _scale_and_shift(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """Return ``s`` and ``t`` of a batch norm, each ``(C,)``."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    shift = -norm.running_mean * scale
    return scale, shift if norm.bias is None else shift + norm.bias


def _fold(norm: nn.Module, layer: nn.Module) -> nn.Module:
    """Fold a norm into the convolution or the fully connected layer in front of it."""
    scale, shift = _scale_and_shift(norm)
    bias = shift if layer.bias is None else shift + scale * layer.bias
    layer.weight *= scale.view(-1, *[1] * (layer.weight.dim() - 1))
    layer.bias = nn.Parameter(bias)
    return layer


def _clamp_before(conv: nn.Conv2d, norm: nn.Module) -> Clamp:
    """Fold a norm and a ReLU into the 1x1 convolution behind them, up to the clamp returned."""
    scale, shift = _scale_and_shift(norm)
    bound = -shift / scale
    largest = torch.full_like(bound, torch.finfo(torch.float32).max)
    low = torch.where(scale > 0, bound, -largest)
    high = torch.where(scale < 0, bound, largest)
    # A channel without scale is constant, and so is one that is off for all that is below FAR: its
    # bound times its scale would have to cancel its shift, for which half precision is too coarse.
    # A channel that is on all that far needs no bound, and gets none where it is not a number.
    constant = (scale == 0) | ((shift < 0) & (bound.abs() > FAR))
    low, high = low.masked_fill(constant, 0), high.masked_fill(constant, 0)
    shift = torch.where(constant, shift.relu(), shift)
    conv.bias += conv.weight.flatten(1) @ shift
    conv.weight *= scale[:, None, None]
    return Clamp(low, high)


def _side_by_side(first: Tensor, second: Tensor) -> nn.Parameter:
    """Make the weight of one depthwise 5x5 convolution of those of the two branches."""
    weight = first.new_zeros(len(first) + len(second), 1, 5, 5)
    weight[: len(first), :, 1:4, 1:4] = first
    weight[len(first) :, :, ::2, ::2] = second  # its dilation is twice the other's
    return nn.Parameter(weight)


def _widen(x: Tensor, multiple: int, dim: int = 0) -> Tensor:
    """Append zeros along one dimension, up to the next multiple."""
    behind = (0, 0) * (x.dim() - 1 - dim)  # F.pad begins with the last dimension
    return F.pad(x, (*behind, 0, -x.shape[dim] % multiple))


def _stack(first: nn.Linear, second: nn.Linear) -> tuple[nn.Parameter, nn.Parameter]:
    """Make one layer of two that read one vector each: weight ``(in, out)`` and bias."""
    weight = torch.block_diag(first.weight, second.weight).T.contiguous()
    return nn.Parameter(weight), nn.Parameter(torch.cat([first.bias, second.bias]))
