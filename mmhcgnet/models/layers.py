"""The layers of HCGNet, and the pre-activated convolution that all its modules are made of."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from mmcv.cnn import build_activation_layer, build_conv_layer, build_norm_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules.instancenorm import _InstanceNorm

from mmhcgnet.errors import did_you_mean

# MMCV's words for a type that is in no registry, "Cannot find None in registry", and MMEngine's.
_UNKNOWN = re.compile(r"^Cannot find .* in registry|is not in the \S+ registry")


@contextmanager
def _naming(key: str, cfg: Any) -> Iterator[None]:
    """Let what MMCV's builders raise say which config they could not build."""
    if not isinstance(cfg, dict) or not isinstance(cfg.get("type"), str | type):
        raise ValueError(f"{key} must be a dict with the type of a layer, got {cfg!r}.")
    try:
        yield
    except (KeyError, RuntimeError, TypeError) as error:
        reason = str(error.args[0] if error.args else error)
        if isinstance(error, KeyError) and _UNKNOWN.search(reason):
            hint = did_you_mean(str(cfg["type"]), MODELS.module_dict, cutoff=0.5)
            reason = f"no layer of this type is registered{hint}."
        if isinstance(error, RuntimeError) and "Failed to get" not in reason:
            raise  # none of the registries', such as a lack of memory
        raise ValueError(f"No layer can be built from {key}={cfg!r}: {reason}") from error


def build_conv(conv_cfg: dict | None, *args: Any, **kwargs: Any) -> nn.Module:
    """Build a convolution; arguments as those of ``Conv2d``.

    Raises:
        ValueError: If ``conv_cfg`` is not the config of a convolution.
    """
    with _naming("conv_cfg", dict(type="Conv2d") if conv_cfg is None else conv_cfg):
        return build_conv_layer(conv_cfg, *args, **kwargs)


def build_act(act_cfg: dict, key: str = "act_cfg") -> nn.Module:
    """Build an activation.

    Args:
        act_cfg: Config of the layer.
        key: What the argument is called.

    Raises:
        ValueError: If ``act_cfg`` is not the config of a layer.
    """
    with _naming(key, act_cfg):
        return build_activation_layer(act_cfg)


def build_norm(norm_cfg: dict, num_features: int) -> nn.Module:
    """Build a norm layer for ``num_features`` channels.

    Raises:
        ValueError: If ``norm_cfg`` is not the config of a norm layer, or is a group norm whose
            groups are not given or do not divide ``num_features``, an instance norm, or PyTorch's
            layer norm.
    """
    num_groups = norm_cfg.get("num_groups") if isinstance(norm_cfg, dict) else None
    if num_groups is not None and (type(num_groups) is not int or num_groups < 1):
        raise ValueError(f"norm_cfg has num_groups={num_groups!r}, not an integer above 0.")
    if num_groups is not None and num_features % num_groups:
        raise ValueError(
            f"norm_cfg has num_groups={num_groups}, which does not divide HCGNet's width of "
            f"{num_features} channels; num_groups=1 divides every width."
        )
    try:
        with _naming("norm_cfg", norm_cfg):
            norm = build_norm_layer(norm_cfg, num_features)[1]
    except AssertionError as error:  # MMCV's, without a word
        raise ValueError(
            "norm_cfg is a group norm without num_groups: num_groups=1 divides every width of "
            "HCGNet."
        ) from error
    if isinstance(norm, _InstanceNorm):
        raise ValueError(
            "norm_cfg is an instance norm, which HCGNet cannot use: its gates normalise vectors, "
            "of which a channel has a single value; dict(type='GN', num_groups=1) suits them."
        )
    if type(norm) is nn.LayerNorm:  # not MMPretrain's LN2d, which inherits from it
        raise ValueError(
            "norm_cfg is PyTorch's layer norm, which normalises over the width of a map instead of "
            "its channels: use dict(type='GN', num_groups=1) or dict(type='mmpretrain.LN2d')."
        )
    return norm


def concatenate(features: Sequence[Tensor]) -> Tensor:
    """Concatenate maps ``(N, C_i, H, W)``, without copying a single one."""
    return torch.cat(features, dim=1) if len(features) > 1 else features[0]


def is_transformed() -> bool:
    """Whether a transform of ``torch.func`` or forward-mode AD is at work.

    Neither supports recomputation, nor functions that write into given tensors.
    """
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


@dataclasses.dataclass(frozen=True)
class LayerConfigs:
    """The layer configs that reach every layer they name; ``gate_act`` is that of the gates."""

    conv: dict | None
    norm: dict
    act: dict
    gate_act: dict

    @classmethod
    def create(
        cls,
        conv_cfg: dict | None = None,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        gate_act_cfg: dict | None = None,
    ) -> LayerConfigs:
        """Put the paper's layers in the place of those that are not given."""
        return cls(
            conv=conv_cfg,
            norm=dict(type="BN") if norm_cfg is None else norm_cfg,
            act=dict(type="ReLU", inplace=True) if act_cfg is None else act_cfg,
            gate_act=dict(type="Tanh") if gate_act_cfg is None else gate_act_cfg,
        )


class PreActivation(BaseModule):
    """Norm and activation, what precedes every convolution of a module.

    Args:
        channels: Channels of the map.
        cfgs: Configs of the layers.
        init_cfg: How to initialise.
    """

    def __init__(self, channels: int, cfgs: LayerConfigs, init_cfg: dict | None = None) -> None:
        super().__init__(init_cfg)
        self.norm = build_norm(cfgs.norm, channels)
        self.act = build_act(cfgs.act)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and activate ``(N, C, H, W)``."""
        return self.act(self.norm(x))


class PreActConv(PreActivation):
    """A pre-activated convolution: norm, activation, convolution without bias.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: Side of the kernel.
        cfgs: Configs of the layers.
        stride: Stride of the convolution.
        dilation: Dilation of the convolution; the padding keeps the size at stride 1.
        groups: Groups of the convolution.
        init_cfg: How to initialise.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        cfgs: LayerConfigs,
        stride: int = 1,
        dilation: int = 1,
        groups: int = 1,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(in_channels, cfgs, init_cfg)
        self.conv = build_conv(
            cfgs.conv,
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            padding=dilation * (kernel_size // 2),
            dilation=dilation,
            groups=groups,
            bias=False,
        )

    def forward(self, x: Tensor, tap: Callable[[Tensor], Any] | None = None) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, ceil(H / stride), ceil(W / stride))``.

        Args:
            x: The map.
            tap: Called with the activated map, ``(N, C_in, H, W)``.
        """
        x = self.act(self.norm(x))
        if tap is not None:
            tap(x)
        return self.conv(x)
