"""The gates of HCGNet as layers of other networks.

Yang et al., Gated Convolutional Networks with Hybrid Connectivity for Image Classification,
AAAI 2020, https://arxiv.org/abs/1908.09699, which calls them "general plug-ins, which can be
integrated into any CNNs". The output of an SMG module is ``f X' + v`` (information fusion,
figure 2): of a map ``X'``, one plug-in returns ``f X'`` and the other ``X' + v``.

They follow the contract of MMCV's plug-in layers: they are built with ``in_channels`` and return a
map of the shape that they are given.
"""

from __future__ import annotations

from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import Tensor

from .blocks import build_branches
from .gates import ForgetGate, UpdateGate
from .layers import LayerConfigs


@MODELS.register_module()
class ForgetGatePlugin(BaseModule):
    """Weigh every channel of a map with a forget gate (eq. 11).

    Args:
        in_channels: Channels ``C`` of the map.
        reduction: The ratio ``r_f``; the hidden vector has ``C // r_f`` entries. The paper has 2
            and 4, on at most 860 channels. Defaults to 16, SE's on the wider maps of a ResNet.
        norm_cfg: Config of the gate's norm. Defaults to BN.
        conv_cfg: Config of the attention convolution. Defaults to Conv2d.
        gate_act_cfg: Config of the gate's activation. Defaults to Tanh.
        init_cfg: How to initialise. Defaults to None: all channels weigh about 1/2.

    Raises:
        ValueError: If the gate has no hidden channel left, or a config is not one of a layer.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: int = 16,
        norm_cfg: dict | None = None,
        conv_cfg: dict | None = None,
        gate_act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_reduction(self, in_channels, reduction)
        cfgs = LayerConfigs.create(conv_cfg, norm_cfg, gate_act_cfg=gate_act_cfg)
        self.gate = ForgetGate(in_channels, reduction, cfgs.conv, cfgs.norm, cfgs.gate_act)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape.

        Raises:
            ValueError: If a batch of one image meets a batch norm that uses batch statistics.
        """
        return self.gate(x)[:, :, None, None] * x


@MODELS.register_module()
class MultiScaleExcitationPlugin(BaseModule):
    """Add to a map what its multi-scale excitation and update gate make of it (eq. 5 to 10).

    Args:
        in_channels: Channels ``C`` of the map.
        reduction: The ratio ``r_u``; the hidden vector has ``2C // r_u`` entries. The paper has 2
            and 4, on at most 860 channels. Defaults to 16, SE's on the wider maps of a ResNet.
        norm_cfg: Config of the norms in front of both branches and in the gate. Defaults to BN.
        act_cfg: Config of the activations in front of both branches. Defaults to ReLU.
        conv_cfg: Config of the branches and the attention convolutions. Defaults to Conv2d.
        gate_act_cfg: Config of the gate's activation. Defaults to Tanh.
        init_cfg: How to initialise. Defaults to None: what is added is small.

    Raises:
        ValueError: If the gate has no hidden channel left, or a config is not one of a layer.
    """

    def __init__(
        self,
        in_channels: int,
        reduction: int = 16,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        conv_cfg: dict | None = None,
        gate_act_cfg: dict | None = None,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        super().__init__(init_cfg)
        _check_reduction(self, in_channels, reduction)
        cfgs = LayerConfigs.create(conv_cfg, norm_cfg, act_cfg, gate_act_cfg)
        self.branch3, self.branch5 = build_branches(in_channels, cfgs)
        self.gate = UpdateGate(in_channels, reduction, cfgs.conv, cfgs.norm, cfgs.gate_act)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape.

        Raises:
            ValueError: If a batch of one image meets a batch norm that uses batch statistics.
        """
        return x + self.gate(self.branch3(x), self.branch5(x))[:, :, None, None]


def _check_reduction(plugin: BaseModule, in_channels: int, reduction: int) -> None:
    if type(reduction) is not int or not 1 <= reduction <= in_channels:
        raise ValueError(
            f"The reduction of {type(plugin).__name__} must be an integer from 1 to its "
            f"{in_channels} channels, got {reduction!r}."
        )
