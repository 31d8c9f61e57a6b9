"""HCGNet, for classification and detection.

Yang et al., Gated Convolutional Networks with Hybrid Connectivity for Image Classification,
AAAI 2020, https://arxiv.org/abs/1908.09699. Read ``gates.py`` first.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from mmengine.model import BaseModule, ModuleList, Sequential
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.checkpoint import checkpoint

from . import training
from .deploy import deploy as deploy_network
from .dropblock import DropBlock
from .gates import ForgetGate, UpdateGate, build_act, build_conv, build_norm
from .pretrained import pretrained


def _positive(value: Any, *kinds: type) -> bool:
    """Whether a value is a finite number above 0 of one of these types, and no truth value."""
    return type(value) in kinds and 0 < value < math.inf


def _positive_ints(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) > 0
        and all(_positive(value, int) for value in values)
    )


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The numbers that make an HCGNet (figure 3 and table 1).

    Args:
        depths: SMG modules in each hybrid block.
        growth_rates: Channels that each module of a block adds, ``k``.
        stem: ``'imagenet'`` (three convolutions and a pooling, stride 4) or ``'cifar'``
            (one convolution, stride 1).
        groups: Groups of the 3x3 squeeze convolution in hybrid blocks, ``g``.
        squeeze_ratio: Width of the squeeze over the growth rate in hybrid blocks, ``alpha``.
        reduction: Reduction in the gates of hybrid blocks, ``r_u`` and ``r_f``.
        transition_ratio: Channels kept by a transition, ``theta``.
        transition_groups: ``g`` in transitions.
        transition_squeeze_ratio: ``alpha`` in transitions.
        transition_reduction: ``r_u`` and ``r_f`` in transitions.

    Raises:
        ValueError: If a value is out of range or the numbers do not fit together.
    """

    depths: Sequence[int]
    growth_rates: Sequence[int]
    stem: str = "imagenet"
    groups: int = 4
    squeeze_ratio: float = 4.0
    reduction: int = 2
    transition_ratio: float = 0.5
    transition_groups: int = 1
    transition_squeeze_ratio: float = 1.5
    transition_reduction: int = 4

    def __post_init__(self) -> None:
        for name in ("depths", "growth_rates"):
            value = getattr(self, name)
            if not _positive_ints(value):
                raise ValueError(
                    f"{name} must be a non-empty sequence of integers above 0, got {value!r}."
                )
            object.__setattr__(self, name, tuple(value))
        if len(self.depths) != len(self.growth_rates):
            raise ValueError(
                "depths and growth_rates must have one entry for each hybrid block, got "
                f"{len(self.depths)} and {len(self.growth_rates)}."
            )
        if self.stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem must be 'imagenet' or 'cifar', got {self.stem!r}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(field.default) is int and not _positive(value, int):
                raise ValueError(f"{field.name} must be an integer above 0, got {value!r}.")
            if type(field.default) is float and not _positive(value, int, float):
                raise ValueError(f"{field.name} must be a number above 0, got {value!r}.")

    @classmethod
    def create(cls, arch: str | dict) -> Architecture:
        """Look up a published network by name, or read a dict of this class's arguments.

        Raises:
            ValueError: If the name or a key of the dict is unknown, or a key is missing.
        """
        if isinstance(arch, str):
            if arch.upper() not in ARCHITECTURES:
                raise ValueError(
                    f"Unknown arch {arch!r}: choose one of {', '.join(ARCHITECTURES)}, or give a "
                    "dict with 'depths' and 'growth_rates'."
                )
            return ARCHITECTURES[arch.upper()]
        if not isinstance(arch, dict):
            raise ValueError(
                f"arch must be one of {', '.join(ARCHITECTURES)} or a dict, got {arch!r}."
            )
        allowed = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(arch) - set(allowed))
        missing = [name for name in ("depths", "growth_rates") if name not in arch]
        if unknown or missing:
            raise ValueError(
                f"arch has the unknown keys {unknown} and lacks the keys {missing}; "
                f"it takes {', '.join(allowed)}."
            )
        return cls(**arch)

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's output."""
        return 64 if self.stem == "imagenet" else 2 * self.growth_rates[0]

    @property
    def stem_stride(self) -> int:
        """Pixels of the image for one position of the stem's output."""
        return 4 if self.stem == "imagenet" else 1


ARCHITECTURES = {
    "A1": Architecture((8, 8, 8), (12, 24, 36), stem="cifar"),
    "A2": Architecture((8, 8, 8), (24, 36, 64), stem="cifar"),
    "A3": Architecture((12, 12, 12), (36, 48, 80), stem="cifar"),
    "B": Architecture((3, 6, 12, 8), (32, 48, 64, 96)),
    "C": Architecture((6, 12, 18, 14), (48, 56, 72, 112)),
}


@dataclasses.dataclass(frozen=True)
class LayerConfigs:
    """The three layer configs that reach every layer they name."""

    conv: dict | None
    norm: dict
    act: dict


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

    def activate(self, x: Tensor) -> Tensor:
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

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_in, H, W)`` to ``(N, C_out, ceil(H / stride), ceil(W / stride))``."""
        return self.conv(self.activate(x))


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
    ) -> None:
        super().__init__()
        squeeze_channels = int(squeeze_ratio * out_channels)
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
        self.squeeze1 = PreActConv(in_channels, squeeze_channels, 1, cfgs)
        self.squeeze2 = PreActConv(
            squeeze_channels, out_channels, 3, cfgs, stride=stride, groups=groups
        )
        # Named by their receptive fields: the second is a 3x3 of dilation 2 that stands in for 5x5.
        # Small at first, as the gates are neutral: the vector grows with what it is good for.
        branch = dict(
            groups=out_channels, init_cfg=dict(type="Normal", std=0.01, override=dict(name="conv"))
        )
        self.branch3 = PreActConv(out_channels, out_channels, 3, cfgs, **branch)
        self.branch5 = PreActConv(out_channels, out_channels, 3, cfgs, dilation=2, **branch)
        self.update_gate = UpdateGate(out_channels, reduction, cfgs.conv, cfgs.norm)
        self.forget_gate = ForgetGate(out_channels, reduction, cfgs.conv, cfgs.norm)

    def forward(self, *features: Tensor) -> Tensor:
        """Read the concatenation of ``features``.

        Args:
            features: Maps of shape ``(N, C_i, H, W)`` whose channels add up to ``in_channels``.

        Returns:
            Map of shape ``(N, C, ceil(H / S), ceil(W / S))``.
        """
        return self._maybe_checkpoint(self._forward, *features)

    def forward_activated(self, x: Tensor) -> Tensor:
        """Read a map that has already passed ``squeeze1.activate``; shapes as in ``forward``."""
        return self._maybe_checkpoint(self._forward_activated, x)

    def _forward(self, *features: Tensor) -> Tensor:
        return self._forward_activated(self.squeeze1.activate(torch.cat(features, dim=1)))

    def _forward_activated(self, x: Tensor) -> Tensor:
        x = self.squeeze2(self.squeeze1.conv(x))  # X', (N, C, H', W')
        v = self.update_gate(self.branch3(x), self.branch5(x))  # (N, C)
        f = self.forget_gate(x)  # (N, C)
        return torch.addcmul(v[:, :, None, None], f[:, :, None, None], x)  # O = f X' + v

    def _maybe_checkpoint(self, function: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        if not (self.with_cp and torch.is_grad_enabled()):
            return function(*inputs)
        return checkpoint(
            function,
            *inputs,
            use_reentrant=False,
            preserve_rng_state=False,  # nothing in a module is random
            context_fn=lambda: (nullcontext(), _running_statistics_kept(self)),
        )


@contextmanager
def _running_statistics_kept(module: nn.Module):
    """Let the recomputation of a checkpointed module leave the running statistics alone."""
    norms = [m for m in module.modules() if isinstance(m, _BatchNorm) and m.training]
    kept = [(norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        # SyncBN does without the momentum, but not without a count.
        norm.momentum, norm.num_batches_tracked = 0.0, norm.num_batches_tracked.clone()
    try:
        yield
    finally:
        for norm, (momentum, num_batches_tracked) in zip(norms, kept, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, num_batches_tracked


class HybridBlock(Sequential):
    """SMG modules of which each reads the block's input and every earlier module's output.

    Its output, the concatenation of all of them, has ``C_0 + n * k`` channels.
    """

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C_0, H, W)`` to ``(N, C_0 + n * k, H, W)``."""
        features = [x]
        for module in self:
            features.append(module(*features))
        return torch.cat(features, dim=1)


class TransitionInput(BaseModule):
    """What a transition contributes to the output of the last stage that is built.

    Args:
        channels: Channels of the stage.
        cfgs: Configs of the layers.
    """

    def __init__(self, channels: int, cfgs: LayerConfigs) -> None:
        super().__init__()
        self.squeeze1 = PreActivation(channels, cfgs)


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
        act_cfg: Config of all activations but the tanh and sigmoid of the gates. Defaults to
            ReLU.
        conv_cfg: Config of all convolutions, the attention maps included. Defaults to Conv2d.
        with_cp: Recompute each SMG module in the backward pass to save memory. Running
            statistics are the same as without. Defaults to False.
        dropblock: Arguments of :class:`DropBlock`, which then acts on the output of every
            transition that is not frozen. Defaults to None, no DropBlock.
        deploy: Build the deployed form, as :meth:`switch_to_deploy` leaves it, for inference with
            weights that were saved from there. Defaults to False.
        init_cfg: How to initialise. ``dict(type='Pretrained', checkpoint=..., prefix=
            'backbone.')`` loads weights and refuses a file that lacks any of the backbone.
            Defaults to Kaiming initialisation by fan-in, with gates that start neutral.

    Attributes:
        out_indices (tuple[int]): Stages whose maps are returned, from 0.
        out_channels (tuple[int]): Channels of each returned map.
        out_strides (tuple[int]): Stride of each returned map, in pixels.
        plain (bool): Set it to True to train in the plain form, layer by layer as in the paper.
            By default the training form of ``training.py`` computes the same in less memory;
            norms other than BN and SyncBN, other convolutions and layers with hooks take the
            plain form by themselves, and so does inference.

    Raises:
        ValueError: If an argument has a value that is not allowed.
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
        with_cp: bool = False,
        dropblock: dict | None = None,
        deploy: bool = False,
        init_cfg: dict | list[dict] | None = None,
    ) -> None:
        if init_cfg is None:
            init_cfg = dict(type="Kaiming", layer="Conv2d", mode="fan_in")
        for cfg in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
            if not (isinstance(cfg, dict) and "type" in cfg):
                raise ValueError(f"init_cfg must be a dict with a type, or several, got {cfg!r}.")
        super().__init__(init_cfg)
        self.arch = Architecture.create(arch)
        num_stages = len(self.arch.depths)
        if not _positive(in_channels, int):
            raise ValueError(f"in_channels must be an integer above 0, got {in_channels!r}.")
        if type(frozen_stages) is not int or frozen_stages not in range(-1, num_stages + 1):
            raise ValueError(
                f"frozen_stages must be an integer from -1 to {num_stages}, got {frozen_stages!r}."
            )
        for name, value in dict(norm_eval=norm_eval, with_cp=with_cp, deploy=deploy).items():
            if type(value) is not bool:  # 'no' would count as True
                raise ValueError(f"{name} must be True or False, got {value!r}.")
        self.out_indices = _normalise_indices(out_indices, num_stages)
        self.frozen_stages = frozen_stages
        self.norm_eval = norm_eval
        self.with_cp = with_cp
        self.plain = False
        self.deployed = False
        cfgs = LayerConfigs(
            conv=conv_cfg,
            norm=dict(type="BN") if norm_cfg is None else norm_cfg,
            act=dict(type="ReLU", inplace=True) if act_cfg is None else act_cfg,
        )

        self.stem = build_stem(in_channels, self.arch, cfgs)
        self.stages = ModuleList()
        self.transitions = ModuleList()
        channels, stride = self.arch.stem_channels, self.arch.stem_stride
        stage_channels, stage_strides = [], []
        last = max(self.out_indices)
        for i in range(last + 1):
            self.stages.append(self._build_block(i, channels, cfgs, with_cp))
            channels += self.arch.depths[i] * self.arch.growth_rates[i]
            stage_channels.append(channels)
            stage_strides.append(stride)
            if i == num_stages - 1:
                self.norm = build_norm(cfgs.norm, channels)
                self.act = build_act(cfgs.act)
            elif i == last:
                self.transitions.append(TransitionInput(channels, cfgs))
            else:
                transition = self._build_transition(channels, cfgs, with_cp)
                self.transitions.append(transition)
                channels = transition.out_channels
                stride *= 2
        self.dropblock = None if dropblock is None else _build_dropblock(dropblock)
        self.out_channels = tuple(stage_channels[i] for i in self.out_indices)
        self.out_strides = tuple(stage_strides[i] for i in self.out_indices)
        self._has_training_form = training.has_training_form(self)
        self._freeze()
        if deploy:
            self.eval()
            self.switch_to_deploy()

    def _build_block(
        self, index: int, channels: int, cfgs: LayerConfigs, with_cp: bool
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
                    with_cp=with_cp,
                )
                for i in range(self.arch.depths[index])
            )
        )

    def _build_transition(self, channels: int, cfgs: LayerConfigs, with_cp: bool) -> SMG:
        return SMG(
            channels,
            int(self.arch.transition_ratio * channels),
            squeeze_ratio=self.arch.transition_squeeze_ratio,
            groups=self.arch.transition_groups,
            stride=2,
            reduction=self.arch.transition_reduction,
            cfgs=cfgs,
            with_cp=with_cp,
        )

    def init_weights(self) -> None:
        """Initialise by ``init_cfg``.

        Raises:
            FileNotFoundError: If the pretrained weights are not there.
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
        if self._trains_in_training_form():
            maps = training.forward(self, x)
        else:
            maps = self._forward_plainly(x)
        return tuple(maps[i] for i in self.out_indices)

    def _trains_in_training_form(self) -> bool:
        if self.plain or self.deployed or not torch.is_grad_enabled() or torch.jit.is_tracing():
            return False
        if not torch.compiler.is_compiling():  # the compiler cannot look at types and hooks
            self._has_training_form = training.has_training_form(self)
        return self._has_training_form

    def _forward_plainly(self, x: Tensor) -> list[Tensor]:
        x = self.stem(x)
        maps = []
        for i, stage in enumerate(self.stages):
            x = self.reader(i).activate(stage(x))
            maps.append(x)
            if i < len(self.stages) - 1:
                x = self.drop(i, self.transitions[i].forward_activated(x))
        return maps

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

        It has ``norm``, ``act`` and ``activate``: the first layers of the transition behind the
        block, and those of the network itself for the last block.
        """
        last = index == len(self.arch.depths) - 1
        return self if last else self.transitions[index].squeeze1

    def activate(self, x: Tensor) -> Tensor:
        """Normalise and activate the output of the last block, ``(N, C, H, W)``."""
        return self.act(self.norm(x))

    def drop(self, index: int, x: Tensor) -> Tensor:
        """Apply DropBlock, if there is one, to the output of a transition, ``(N, C, H, W)``."""
        return self.dropblock(x) if self.dropblock and self.transitions[index].training else x

    def train(self, mode: bool = True) -> HCGNet:
        """Set the mode of all but the frozen parts and, with ``norm_eval``, the batch norms."""
        super().train(mode)
        self._has_training_form = not self.deployed and training.has_training_form(self)
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
        """Tell how deep a parameter lies, for layer-wise learning rate decay.

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


def _build_dropblock(arguments: dict) -> DropBlock:
    if not isinstance(arguments, dict):
        raise ValueError(f"dropblock must be a dict of arguments or None, got {arguments!r}.")
    try:
        return DropBlock(**arguments)
    except TypeError as error:
        raise ValueError(f"dropblock={arguments!r}: {error}") from error


def _normalise_indices(out_indices: int | Sequence[int], num_stages: int) -> tuple[int, ...]:
    indices = out_indices if isinstance(out_indices, list | tuple) else [out_indices]
    allowed = range(-num_stages, num_stages)
    if not indices or any(type(i) is not int or i not in allowed for i in indices):  # no bool
        raise ValueError(
            f"out_indices must be integers from {-num_stages} to {num_stages - 1}, "
            f"got {out_indices!r}."
        )
    indices = tuple(i % num_stages for i in indices)
    if len(set(indices)) < len(indices):
        raise ValueError(f"out_indices must name each stage once, got {out_indices!r}.")
    return indices
