"""Computing in the memory format that is faster on CPUs."""

from __future__ import annotations

import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Let the backbone compute in the memory format ``(N, H, W, C)``, which is faster on CPUs.

    Its maps are handed on as ``(N, C, H, W)`` in memory: MMCV's RoIAlign reads any other order
    wrongly and does not say so. The numbers stay the same, up to rounding.

    Args:
        cpu_only: Do nothing on other devices: without mixed precision, GPUs may be slower with it.
    """

    def __init__(self, cpu_only: bool = False) -> None:
        self.cpu_only = cpu_only

    def before_train(self, runner: Runner) -> None:
        """Convert the backbone, also before a validation of its own and before a test."""
        parameter = next(runner.model.parameters(), None)
        if self.cpu_only and parameter is not None and parameter.device.type != "cpu":
            return
        # Test-time augmentation wraps a model, semi-supervised training two.
        backbones = [getattr(module, "backbone", None) for module in runner.model.modules()]
        backbones = [backbone for backbone in backbones if isinstance(backbone, nn.Module)]
        if not backbones:
            runner.logger.warning(
                f"mmhcgnet.ChannelsLastHook does nothing: {type(runner.model).__name__} has no "
                "backbone."
            )
        for backbone in backbones:
            if not is_model_wrapper(runner.model):
                # DDP has laid out its buckets by the weights' strides: there, images alone are
                # turned.
                backbone.to(memory_format=torch.channels_last)
            if _turn_back not in backbone._forward_hooks.values():
                backbone.register_forward_pre_hook(_turn)
                backbone.register_forward_hook(_turn_back)

    before_val = before_test = before_train


def _turn(backbone: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


def _turn_back(backbone: nn.Module, inputs: tuple, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in maps)
