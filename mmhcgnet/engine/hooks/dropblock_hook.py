"""Hooks for configs, by the type ``mmhcgnet.<name>``."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhcgnet.errors import UsageError
from mmhcgnet.models import DropBlock


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
