"""Hooks for configs, by the type ``mmhcgnet.<name>``."""

from __future__ import annotations

import torch
from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import Tensor, nn

from mmhcgnet.models import DropBlock

from .deployment import switch_to_deploy
from .errors import UsageError


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Let the backbone compute in the memory format ``(N, H, W, C)``, which is faster on CPUs.

    Its maps are handed on as ``(N, C, H, W)`` in memory: MMCV's RoIAlign reads any other order
    wrongly and does not say so. The numbers stay the same, up to rounding.
    """

    def before_train(self, runner: Runner) -> None:
        """Convert the backbone before training."""
        self._convert(runner)

    def before_val(self, runner: Runner) -> None:
        """Convert the backbone before a validation of its own."""
        self._convert(runner)

    def before_test(self, runner: Runner) -> None:
        """Convert the backbone before testing."""
        self._convert(runner)

    def _convert(self, runner: Runner) -> None:
        model = runner.model
        while not hasattr(model, "backbone"):  # test-time augmentation wraps, too
            model = model.module
        if not is_model_wrapper(runner.model):
            # DDP has laid out its buckets by the weights' strides: there, images alone are turned.
            model.backbone.to(memory_format=torch.channels_last)
        if _hand_on not in model.backbone._forward_hooks.values():
            model.backbone.register_forward_pre_hook(_turn)
            model.backbone.register_forward_hook(_hand_on)


def _turn(backbone: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (inputs[0].contiguous(memory_format=torch.channels_last),)


def _hand_on(backbone: nn.Module, inputs: tuple, maps: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(x.contiguous() for x in maps)


@HOOKS.register_module()
class DeployHook(Hook):
    """Test the model in its deployed form, as ``--deploy`` of ``tools/test.py`` does.

    It switches all parts that have MMPretrain's method ``switch_to_deploy``, for good: the model
    cannot be trained thereafter.
    """

    # Before ChannelsLastHook, which is to convert the deployed weights.
    priority = "HIGH"

    def before_test(self, runner: Runner) -> None:
        """Switch the model.

        Raises:
            UsageError: If there is nothing to switch, it cannot be switched, or an ``EMAHook``
                would exchange its weights.
        """
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            raise UsageError(
                "An EMAHook exchanges the model's weights in a test, and those of a deployed model "
                "are others: drop it from custom_hooks, as a checkpoint's state_dict holds the "
                "averaged weights already."
            )
        parts = switch_to_deploy(runner.model)
        print_log(f"Deployed: {', '.join(parts)}", logger="current")


@HOOKS.register_module()
class DropBlockHook(Hook):
    """Let the probability of DropBlock follow the learning rate's cycles.

    In an epoch with the rate ``lr`` it is ``drop_prob * (1 - lr / lr_0)``, with ``lr_0`` the rate
    of the optimiser's config: under SGDR nothing is dropped where a cycle begins, and ``drop_prob``
    where it ends. At a rate that no scheduler changes, nothing is ever dropped. That it rises is
    our choice, from the paper of DropBlock, where it does so over the training. It depends on
    nothing but the rate, which a resumed run has back already.
    """

    def before_train_epoch(self, runner: Runner) -> None:
        """Set the strength of every DropBlock.

        Raises:
            UsageError: If the model has none.
        """
        group = runner.optim_wrapper.param_groups[0]
        # The schedulers note the rate that they start from.
        strength = 1 - group["lr"] / group.get("initial_lr", group["lr"])
        layers = [m for m in runner.model.modules() if isinstance(m, DropBlock)]
        if not layers:
            raise UsageError(
                "mmhcgnet.DropBlockHook finds no DropBlock in the model: add "
                "dropblock=dict(block_size=2) to model.backbone, or drop the hook."
            )
        for layer in layers:
            layer.strength = strength
