"""Norms that use statistics which nothing has estimated."""

from __future__ import annotations

import logging

from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmhcgnet.weights import listed


@HOOKS.register_module()
class UntrainedNormHook(Hook):
    """Warn if batch norms in eval mode have the statistics that they were built with.

    ``norm_eval=True`` keeps the running means and variances of a backbone as its checkpoint has
    them. Without a checkpoint they are 0 and 1 for the whole training: nothing is normalised, and
    the maps of a deep network fade.
    """

    def before_train(self, runner: Runner) -> None:
        """Look at the model as it is about to be trained."""
        mode = runner.model.training
        runner.model.train()
        names = untrained_norms(runner.model)
        runner.model.train(mode)
        if names:
            print_log(
                f"{listed(names, 'batch norms', most=3)} are in eval mode with the statistics that "
                "they were built with, so that they normalise nothing: give the backbone trained "
                "weights (load_from, or its init_cfg), or train its norms with "
                "model.backbone.norm_eval=False.",
                "current",
                logging.WARNING,
            )


def untrained_norms(model: nn.Module) -> list[str]:
    """Name the batch norms in eval mode whose statistics are the initial ones."""
    return [
        name
        for name, norm in model.named_modules()
        if isinstance(norm, _BatchNorm)
        and not norm.training
        and norm.running_mean is not None
        and not norm.running_mean.any()
        and (norm.running_var == 1).all()
    ]
