"""HCGNet in a form for export: the plain form in fewer operators, equal up to rounding.

Engines fold norms into convolutions and fuse activations by themselves, so that the deployed form
gains nothing there: its clamps, padded channels and products by hand are what PyTorch is quick at.
What they cannot do is to
see through computed shapes and through fully connected layers on maps of one position. So here the
pooling by attention is one product of matrices between reshapes by constants, that of the branches
in the order in which OpenVINO keeps maps, the layers of the gates are 1x1 convolutions, and the
softmax of eq. 9 over two branches is the sigmoid of their difference.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from mmhcgnet.models import HCGNet
from mmhcgnet.models.blocks import SMG
from mmhcgnet.models.layers import concatenate


class Reshape(torch.autograd.Function):
    """Reshape by constants: 0 keeps a dimension, and -1 takes what is left.

    PyTorch's own would compute the shape in the graph, by some six operators.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Return ``x`` in that shape."""
        return x.reshape([x.shape[i] if size == 0 else size for i, size in enumerate(shape)])

    @staticmethod
    def symbolic(g: Any, x: Any, shape: tuple[int, ...]) -> Any:
        """Return the operator."""
        return g.op("Reshape", x, g.op("Constant", value_t=torch.tensor(shape)))


class ExportedSMG(nn.Module):
    """An SMG module for export.

    Args:
        module: The module in eval mode, whose layers are used up.
    """

    def __init__(self, module: SMG) -> None:
        super().__init__()
        update, forget = module.update_gate, module.forget_gate
        self.squeeze1, self.squeeze2 = module.squeeze1, module.squeeze2
        self.branch3, self.branch5 = module.branch3, module.branch5
        self.attention3, self.attention5 = update.attention3, update.attention5
        self.attention = forget.attention
        self.update_hidden = nn.Sequential(_as_conv(update.reduce), update.norm, nn.Tanh())
        self.forget_hidden = nn.Sequential(_as_conv(forget.reduce), forget.norm, nn.Tanh())
        self.update_expand = _as_conv(update.expand3)
        self.update_expand.weight -= update.expand5.weight[:, :, None, None]
        self.update_expand.bias -= update.expand5.bias
        self.forget_expand = _as_conv(forget.expand)

    def forward(self, *features: Tensor, tap: Callable[[Tensor], object] | None = None) -> Tensor:
        """Read the concatenation of ``features``; see :class:`mmhcgnet.models.blocks.SMG`."""
        x = self.squeeze2(self.squeeze1(concatenate(features), tap=tap))  # (N, C, H, W)
        z3 = _pool_rows(self.branch3(x), self.attention3)  # (N, C, 1, 1), as all that follows
        z5 = _pool_rows(self.branch5(x), self.attention5)
        z = _pool(x, self.attention)
        u3 = self.update_expand(self.update_hidden(torch.cat([z3, z5], dim=1))).sigmoid()
        f = self.forget_expand(self.forget_hidden(z)).sigmoid()
        return f * x + (u3 * (z3 - z5) + z5)


def _pool(x: Tensor, attention: nn.Module) -> Tensor:
    """Pool ``(N, C, H, W)`` to ``(N, C, 1, 1)`` with a spatial softmax (eq. 5 and 6)."""
    weights = Reshape.apply(attention(x), (0, 1, -1, 1)).softmax(dim=2)
    return Reshape.apply(x, (0, 0, 1, -1)) @ weights


def _pool_rows(x: Tensor, attention: nn.Module) -> Tensor:
    """Do the same on rows of channels, as OpenVINO keeps maps: two operators more, and no copy."""
    weights = Reshape.apply(attention(x), (0, 1, -1)).softmax(dim=2)  # (N, 1, H*W)
    rows = Reshape.apply(x.permute(0, 2, 3, 1), (0, -1, attention.in_channels))
    return Reshape.apply(weights @ rows, (0, -1, 1, 1))


def _as_conv(linear: nn.Linear) -> nn.Conv2d:
    conv = nn.Conv2d(linear.in_features, linear.out_features, 1)
    conv.weight.copy_(linear.weight[:, :, None, None])
    conv.bias.copy_(linear.bias)
    return conv


@torch.no_grad()
def simplify(model: nn.Module) -> None:
    """Give every HCGNet in a model the form for export, which cannot be undone.

    A deployed one stays as it is.

    Args:
        model: The model, in eval mode.
    """
    for network in model.modules():
        if not isinstance(network, HCGNet) or network.deployed:
            continue
        for stage in network.stages:
            for i, module in enumerate(stage):
                stage[i] = ExportedSMG(module)
        for i, module in enumerate(network.transitions):
            if isinstance(module, SMG):  # and not what a transition gives to the last stage
                network.transitions[i] = ExportedSMG(module)
        network.eval()
