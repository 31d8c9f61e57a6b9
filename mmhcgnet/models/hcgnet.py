"""HCGNet, for classification and detection.

Yang et al., Gated Convolutional Networks with Hybrid Connectivity for Image Classification,
AAAI 2020, https://arxiv.org/abs/1908.09699. Read ``blocks.py`` first.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from mmhcgnet.errors import UnknownArgumentError

from . import memory_saving
from .architecture import Architecture, is_positive, scaled
from .arguments import build_dropblock, explain_unknown, stage_indices
from .blocks import SMG, HybridBlock, TransitionInput, build_stem
from .deployed import deploy as deploy_network
from .gates import Gate
from .layers import LayerConfigs, PreActConv, PreActivation, build_act, build_norm
from .pretrained import pretrained


@MODELS.register_module()
class HCGNet(BaseModule):
    """HCGNet backbone with the activated maps of any of its stages.

    The output of a stage is the BN-ReLU of the first convolution of the transition behind it,
    that of the last stage the final BN-ReLU, as in the authors' detectors. Only what a requested
    output needs is built.

    Args:
        arch: ``'A1'``, ``'A2'``, ``'A3'`` (CIFAR), ``'B'``, ``'C'`` (ImageNet), in any case, or a
            dict of the arguments of :class:`Architecture`.
        in_channels: Channels of the image. Defaults to 3.
        out_indices: Stages whose maps are returned, from 0; negative ones count from the end.
            Defaults to the last stage.
        frozen_stages: -1 freezes nothing, 0 the stem, ``i`` also the stages 1 to ``i`` and the
            transitions that feed them; at the last stage that is built, the whole backbone.
            Frozen parts have no gradient and stay in eval mode. Defaults to -1.
        norm_eval: Keep every batch norm in eval mode while training. Defaults to False.
        norm_cfg: Config of all norm layers, those of the gates included. Defaults to BN.
        act_cfg: Config of all activations but those of the gates. Defaults to ReLU.
        conv_cfg: Config of all convolutions, the attention maps included. Defaults to Conv2d.
        gate_act_cfg: Config of the activations in the gates, for the paper's ablation
            ``dict(type='ReLU')``; with any but Tanh the network trains in the plain form and has
            no deployed one. Defaults to Tanh.
        with_cp: Recompute each SMG module in the backward pass to save memory. Running
            statistics are the same as without. Defaults to False.
        dropblock: Arguments of :class:`DropBlock`, which then acts on the output of every
            transition that is not frozen. Defaults to None, no DropBlock.
        output_stride: Largest stride of a map in pixels, for ``'B'`` and ``'C'`` 4, 8, 16 or 32, as
            for semantic segmentation: transitions that would exceed it have stride 1, and the
            convolutions behind them are dilated. The weights are the same. Defaults to None, no
            limit.
        strides: Instead of ``output_stride``, as for MMDetection's ResNet: the stride of each
            stage's first part, here the transition in front of it; the first is 1. Defaults to
            None, 1 and then 2.
        dilations: Likewise, the dilation of each stage. A transition reads with that of the stage
            in front of it, as ResNets do with ``contract_dilation``. Defaults to None, 1.
        deploy: Build the deployed form, as :meth:`switch_to_deploy` leaves it, for inference with
            weights that were saved from there. Defaults to False.
        weight_init: What the weights start from before ``init_cfg`` acts. ``'neutral'``: Kaiming
            initialisation by fan-in, with gates that start neutral and branches that start small.
            ``'pytorch'``: PyTorch's default in every layer, biases, gates and branches included,
            as in the authors' program. Defaults to ``'neutral'``.
        init_cfg: How to initialise. ``dict(type='Pretrained', checkpoint=..., prefix=
            'backbone.')`` loads weights and refuses a file that lacks any of the backbone. Any
            other replaces the Kaiming initialisation of ``'neutral'`` and follows ``'pytorch'``.
            Defaults to None, ``weight_init`` alone.

    Attributes:
        out_indices (tuple[int]): Stages whose maps are returned, from 0.
        out_channels (tuple[int]): Channels of each returned map.
        out_strides (tuple[int]): Stride of each returned map, in pixels.
        plain (bool): Set it to True to train in the plain form, layer by layer as in the paper. By
            default the memory-saving form computes the same in less memory where nothing could
            tell them apart; :attr:`form` says which one runs.

    Raises:
        ValueError: If an argument has a value that is not allowed.
        UnknownArgumentError: If an argument is not one of these.
    """

    def __init__(
        self,
        arch: str | dict = "B",
        in_channels: int = 3,
        out_indices: int | Sequence[int] = -1,
        frozen_stages: int = -1,
        norm_eval: bool = False,
        norm_cfg: dict | None = None,
        act_cfg: dict | None = None,
        conv_cfg: dict | None = None,
        gate_act_cfg: dict | None = None,
        with_cp: bool = False,
        dropblock: dict | None = None,
        output_stride: int | None = None,
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        deploy: bool = False,
        weight_init: str = "neutral",
        init_cfg: dict | list[dict] | None = None,
        **unknown: Any,
    ) -> None:
        if unknown:
            known = inspect.signature(HCGNet).parameters
            raise UnknownArgumentError(explain_unknown(unknown, known))
        if weight_init not in ("neutral", "pytorch"):
            raise ValueError(f"weight_init must be 'neutral' or 'pytorch', got {weight_init!r}.")
        if init_cfg is None:
            kaiming = dict(type="Kaiming", layer="Conv2d", mode="fan_in")
            init_cfg = kaiming if weight_init == "neutral" else []
        for cfg in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
            if not (isinstance(cfg, dict) and "type" in cfg):
                raise ValueError(f"init_cfg must be a dict with a type, or several, got {cfg!r}.")
        super().__init__(init_cfg)
        self.arch = Architecture.create(arch)
        num_stages = len(self.arch.depths)
        if not is_positive(in_channels, int):
            raise ValueError(f"in_channels must be an integer above 0, got {in_channels!r}.")
        if type(frozen_stages) is not int or frozen_stages not in range(-1, num_stages + 1):
            raise ValueError(
                f"frozen_stages must be an integer from -1 to {num_stages}, got {frozen_stages!r}."
            )
        for name, value in dict(norm_eval=norm_eval, with_cp=with_cp, deploy=deploy).items():
            if type(value) is not bool:  # 'no' would count as True
                raise ValueError(f"{name} must be True or False, got {value!r}.")
        self.out_indices = stage_indices(out_indices, num_stages)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.plain = False
        self.deployed = False
        cfgs = LayerConfigs.create(conv_cfg, norm_cfg, act_cfg, gate_act_cfg)

        self.stem = build_stem(in_channels, self.arch, cfgs)
        self.stages = ModuleList()
        self.transitions = ModuleList()
        channels, stride = self.arch.stem_channels, self.arch.stem_stride
        stage_channels, stage_strides = [], []
        last = max(self.out_indices)
        strides, dilations = self.arch.geometry(output_stride, strides, dilations, last + 1)
        for i in range(last + 1):
            self.stages.append(self._build_block(i, channels, dilations[i], cfgs))
            channels += self.arch.depths[i] * self.arch.growth_rates[i]
            stage_channels.append(channels)
            stage_strides.append(stride)
            if i == num_stages - 1:
                self.norm = build_norm(cfgs.norm, channels)
                self.act = build_act(cfgs.act)
            elif i == last:
                self.transitions.append(TransitionInput(channels, cfgs))
            else:
                transition = self._build_transition(
                    channels, strides[i + 1], dilations[i], dilations[i + 1], cfgs
                )
                self.transitions.append(transition)
                channels = transition.out_channels
                stride *= strides[i + 1]
        self.dropblock = None if dropblock is None else build_dropblock(dropblock)
        if weight_init == "pytorch":  # what the layers have since they were built
            for module in self.modules():
                if isinstance(module, PreActConv | Gate):
                    module.init_cfg = None
        self.out_channels = tuple(stage_channels[i] for i in self.out_indices)
        self.out_strides = tuple(stage_strides[i] for i in self.out_indices)
        self._freeze()
        if deploy:
            self.eval()
            self.switch_to_deploy()

    def _build_block(
        self, index: int, channels: int, dilation: int, cfgs: LayerConfigs
    ) -> HybridBlock:
        growth_rate = self.arch.growth_rates[index]
        return HybridBlock(
            *(
                SMG(
                    channels + i * growth_rate,
                    growth_rate,
                    squeeze_ratio=self.arch.squeeze_ratio,
                    groups=self.arch.groups,
                    stride=1,
                    reduction=self.arch.reduction,
                    cfgs=cfgs,
                    with_cp=self.with_cp,
                    squeeze_dilation=dilation,
                    dilation=dilation,
                )
                for i in range(self.arch.depths[index])
            )
        )

    def _build_transition(
        self, channels: int, stride: int, dilation_before: int, dilation: int, cfgs: LayerConfigs
    ) -> SMG:
        return SMG(
            channels,
            scaled(channels, self.arch.transition_ratio),
            squeeze_ratio=self.arch.transition_squeeze_ratio,
            groups=self.arch.transition_groups,
            stride=stride,
            reduction=self.arch.transition_reduction,
            cfgs=cfgs,
            with_cp=self.with_cp,
            squeeze_dilation=dilation_before,
            dilation=dilation,
        )

    def init_weights(self) -> None:
        """Initialise by ``init_cfg``.

        Raises:
            FileNotFoundError: If the pretrained weights do not exist.
            PretrainedMismatchError: If the weights lack a tensor of the backbone or hold it in
                another shape.
        """
        with pretrained(self):
            super().init_weights()

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Compute the maps of the stages in ``out_indices``.

        Args:
            x: Images of shape ``(N, in_channels, H, W)``, from 32 pixels a side.

        Returns:
            One map for each out index, ``(N, out_channels[i], ceil(H / out_strides[i]),
            ceil(W / out_strides[i]))``.

        Raises:
            ValueError: If a batch of one image meets a gate whose batch norm uses batch
                statistics.
        """
        if self.form != "memory_saving" or isinstance(x, torch.fx.Proxy):
            maps = self._forward(x)
        else:
            maps = memory_saving.forward(self, x)
        return tuple(maps[i] for i in self.out_indices)

    def _forward(self, x: Tensor) -> list[Tensor]:
        """Call module after module; in a deployed network, others stand in their places."""
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if i < len(self.stages) - 1:
                x = self.drop(i, self.transitions[i](x, tap=maps.append))
            elif i < len(self.transitions):
                maps.append(self.transitions[i](x))
            else:
                maps.append(self.act(self.norm(x)))
        return maps

    @property
    def form(self) -> str:
        """The form that a call runs now: ``'plain'``, ``'memory_saving'`` or ``'deployed'``.

        The memory-saving form runs in training mode with gradients, if nothing could tell it from
        the plain one: see :func:`mmhcgnet.models.memory_saving.is_exact`.
        """
        if self.deployed:
            return "deployed"
        trains = self.training and torch.is_grad_enabled() and not torch.jit.is_tracing()
        return "memory_saving" if trains and not self.plain and self._may_save() else "plain"

    @torch.compiler.assume_constant_result  # asked once, and not traced, in a compilation
    def _may_save(self) -> bool:
        return memory_saving.is_exact(self)

    def switch_to_deploy(self) -> None:
        """Fold all norms into the convolutions, for faster inference; it cannot be undone.

        The outputs stay the same, up to rounding. The names of the weights do not: a network with
        ``deploy=True`` loads them.

        Raises:
            ValueError: If the network is in training mode, or has another norm than BN, another
                activation than ReLU or another convolution than PyTorch's.
        """
        if not self.deployed:
            deploy_network(self)
            self.deployed = True

    def reader(self, index: int) -> PreActivation | HCGNet:
        """Return what turns the output of a block into the map of its stage.

        It has ``norm`` and ``act``: the first layers of the transition behind the block, or those
        of the network itself for the last block.
        """
        last = index == len(self.arch.depths) - 1
        return self if last else self.transitions[index].squeeze1

    def drop(self, index: int, x: Tensor) -> Tensor:
        """Apply DropBlock, if there is one, to the output of a transition, ``(N, C, H, W)``."""
        return self.dropblock(x) if self.dropblock and self.transitions[index].training else x

    def train(self, mode: bool = True) -> HCGNet:
        """Set the mode of all but the frozen parts and, with ``norm_eval``, the batch norms.

        A deployed network stays in eval mode.
        """
        super().train(mode and not self.deployed)
        self._freeze()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        if self.frozen_stages < 0:
            return
        if self.frozen_stages >= len(self.stages):
            frozen = self.children()
        else:
            feeding = max(self.frozen_stages - 1, 0)
            stages = self.stages[: self.frozen_stages]
            frozen = (self.stem, *stages, *self.transitions[:feeding])
        for module in frozen:
            module.eval().requires_grad_(False)

    def get_layer_depth(self, param_name: str, prefix: str = "") -> tuple[int, int]:
        """Return how deep a parameter lies, for layer-wise learning rate decay.

        The stem has depth 0, each SMG module one more than the module before it, transitions
        included; the final norm shares the last module's depth.

        Args:
            param_name: Name of the parameter in the model.
            prefix: Prefix of the backbone's parameters in the model.

        Returns:
            The depth and the number of depths; parameters outside the backbone have the last.
        """
        order = []
        for i, stage in enumerate(self.stages):
            order += [f"stages.{i}.{j}." for j in range(len(stage))]
            if i < len(self.transitions):
                order.append(f"transitions.{i}.")
        num_layers = len(order) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        name = param_name[len(prefix) :]
        if name.startswith("stem."):
            return 0, num_layers
        for depth, module in enumerate(order, start=1):
            if name.startswith(module):
                return depth, num_layers
        return num_layers - 2, num_layers
