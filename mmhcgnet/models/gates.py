"""The update gate and the forget gate of HCGNet (eq. 5 to 11).

Yang et al., Gated Convolutional Networks with Hybrid Connectivity for Image Classification,
AAAI 2020, https://arxiv.org/abs/1908.09699.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext

import torch
from mmengine.model import BaseModule
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmhcgnet.errors import UsageError

from .layers import build_act, build_conv, build_norm


def neutral_init(attentions: list[str], expands: list[str]) -> list[dict]:
    """Return the initialisation of a gate: attention is a mean, every channel weighs the same.

    The paper gives none. Started from random gates (Kaiming's initialisation everywhere), training
    from scratch with small batches was slower in our trials.

    Args:
        attentions: Names of the attention convolutions, which start at 0.
        expands: Names of the layers before the softmax or the sigmoid, which start small.
    """
    return [
        # The hidden layer feeds a tanh: no ReLU gain.
        dict(type="Kaiming", layer="Linear", mode="fan_in", nonlinearity="linear"),
        dict(type="Constant", val=0, override=[dict(name=name) for name in attentions]),
        dict(type="Normal", std=0.01, override=[dict(name=name) for name in expands]),
    ]


def pooling_dtype(x: Tensor) -> torch.dtype:
    """Return the type for a softmax and a sum over the positions of ``x``: fp32 or better."""
    return x.dtype if x.dtype in (torch.float32, torch.float64) else torch.float32


def without_autocast(x: Tensor) -> AbstractContextManager:
    """Switch autocast off on the device of ``x``, where it is on; PyTorch 2.4 exports no switch."""
    if not torch.is_autocast_enabled(x.device.type):
        return nullcontext()
    return torch.autocast(x.device.type, enabled=False)


@torch.fx.wrap
def attention_pool(x: Tensor, logits: Tensor) -> Tensor:
    """Pool a map with a spatial softmax attention (eq. 5 and 6).

    The softmax and the sum run in fp32 or better: over a large map, the weights of single
    positions lie below what fp16 can represent. Where PyTorch may use TF32 for products of
    matrices, the sum does: its range is that of fp32, its precision that of fp16.

    Args:
        x: Map of shape ``(N, C, H, W)``.
        logits: Of the attention, ``(N, 1, H, W)``.

    Returns:
        Pooled vector of shape ``(N, C)`` in the type of ``x``.
    """
    dtype = pooling_dtype(x)
    with without_autocast(x):
        weights = logits.flatten(2).to(dtype).softmax(dim=2)  # (N, 1, H*W)
        columns = x.flatten(2).to(dtype)  # (N, C, H*W)
        if columns.stride(1) == 1:  # channels last, and quicker so
            pooled = torch.bmm(weights, columns.transpose(1, 2)).squeeze(1)
        else:
            pooled = torch.bmm(columns, weights.transpose(1, 2)).squeeze(2)
    return pooled.to(x.dtype)


class Gate(BaseModule):
    """What both gates share: ``tanh(norm(reduce(z)))`` on pooled vectors.

    Args:
        in_channels: Length of the pooled vector.
        mid_channels: Length of the hidden vector.
        norm_cfg: Config of the norm layer.
        act_cfg: Config of the activation, in the paper tanh; its ablation has ReLU.
        init_cfg: How to initialise.
    """

    def __init__(
        self,
        in_channels: int,
        mid_channels: int,
        norm_cfg: dict,
        act_cfg: dict,
        init_cfg: list[dict],
    ) -> None:
        super().__init__(init_cfg)
        self.reduce = nn.Linear(in_channels, mid_channels)
        self.norm = build_norm(norm_cfg, mid_channels)
        self.act = build_act(act_cfg, "gate_act_cfg")

    def hidden(self, z: Tensor, norm: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Map pooled vectors ``(N, in_channels)`` to hidden vectors ``(N, mid_channels)``.

        Args:
            z: Pooled vectors.
            norm: What to call in place of the gate's norm, on ``(N, mid_channels, 1, 1)``.

        Raises:
            ValueError: If batch statistics are asked of a single vector.
        """
        if needs_two_vectors(self.norm):
            _check_two_vectors(z)
        h = self.reduce(z)[:, :, None, None]
        return self.act((self.norm if norm is None else norm)(h).flatten(1))


def needs_two_vectors(norm: nn.Module) -> bool:
    """Return whether a norm takes statistics over the vectors of a batch."""
    if not (isinstance(norm, _BatchNorm) and norm.training):
        return False
    shared = isinstance(norm, nn.SyncBatchNorm) and torch.distributed.is_initialized()
    return not (shared and torch.distributed.get_world_size(norm.process_group) > 1)


@torch.fx.wrap
def _check_two_vectors(z: Tensor) -> None:
    if z.shape[0] == 1:
        raise UsageError(
            "HCGNet cannot train on a batch of one image while the BatchNorm of its gates uses "
            "batch statistics: use a larger batch (drop_last=True keeps the last one whole), "
            "norm_eval=True, SyncBN over several processes, or another norm_cfg such as "
            "dict(type='GN', num_groups=1)."
        )


class UpdateGate(Gate):
    """Select between the two excitation branches, channel by channel (eq. 5 to 10).

    Args:
        channels: Channels ``C`` of each branch.
        reduction: The ratio ``r_u``; the hidden vector has ``2C // r_u`` entries.
        conv_cfg: Config of the attention convolutions.
        norm_cfg: Config of the norm layer.
        act_cfg: Config of the activation.
    """

    def __init__(
        self, channels: int, reduction: int, conv_cfg: dict | None, norm_cfg: dict, act_cfg: dict
    ) -> None:
        mid_channels = 2 * channels // reduction
        init_cfg = neutral_init(["attention3", "attention5"], ["expand3", "expand5"])
        super().__init__(2 * channels, mid_channels, norm_cfg, act_cfg, init_cfg)
        self.attention3 = build_conv(conv_cfg, channels, 1, 1)
        self.attention5 = build_conv(conv_cfg, channels, 1, 1)
        self.expand3 = nn.Linear(mid_channels, channels)
        self.expand5 = nn.Linear(mid_channels, channels)

    def forward(self, x3: Tensor, x5: Tensor) -> Tensor:
        """Fuse the branches, each ``(N, C, H, W)``, into one vector ``(N, C)``."""
        z3 = attention_pool(x3, self.attention3(x3))
        z5 = attention_pool(x5, self.attention5(x5))
        h = self.hidden(torch.cat([z3, z5], dim=1))
        u3, u5 = torch.stack([self.expand3(h), self.expand5(h)]).softmax(dim=0).unbind()
        return u3 * z3 + u5 * z5


class ForgetGate(Gate):
    """Weigh each channel of the squeezed map (eq. 11).

    Args:
        channels: Channels ``C`` of the map.
        reduction: The ratio ``r_f``; the hidden vector has ``C // r_f`` entries.
        conv_cfg: Config of the attention convolution.
        norm_cfg: Config of the norm layer.
        act_cfg: Config of the activation.
    """

    def __init__(
        self, channels: int, reduction: int, conv_cfg: dict | None, norm_cfg: dict, act_cfg: dict
    ) -> None:
        mid_channels = channels // reduction
        init_cfg = neutral_init(["attention"], ["expand"])
        super().__init__(channels, mid_channels, norm_cfg, act_cfg, init_cfg)
        self.attention = build_conv(conv_cfg, channels, 1, 1)
        self.expand = nn.Linear(mid_channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Turn a map ``(N, C, H, W)`` into weights ``(N, C)`` between 0 and 1."""
        return self.expand(self.hidden(attention_pool(x, self.attention(x)))).sigmoid()
