"""A hook that lets DropBlock's probability follow the learning rate's cycles."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from mmengine.hooks import Hook
from mmengine.optim.scheduler.param_scheduler import (
    ConstantParamScheduler,
    CosineAnnealingParamScheduler,
    CosineRestartParamScheduler,
    LinearParamScheduler,
    _ParamScheduler,
)
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhcgnet.errors import UsageError
from mmhcgnet.models import DropBlock


@HOOKS.register_module()
class DropBlockHook(Hook):
    """Let the probability of DropBlock rise within each cycle of the learning rate.

    At the place ``t`` in a cosine cycle of length ``T`` it is
    ``drop_prob * (1 - cos(pi * t / T)) / 2``: nothing where the cycle begins, ``drop_prob`` where
    it ends. With ``drop_prob = 0.1`` this is the released program's
    ``|0.05 * (1 + cos(pi * t / T)) - 0.1|``. ``t`` counts epochs or iterations as the scheduler
    does. Nothing is dropped during a warm-up. Without a cosine schedule, the whole training is one
    cycle. A resumed run drops what it would have dropped, as the place is all that counts.
    """

    def before_train(self, runner: Runner) -> None:
        """Look for every DropBlock.

        Raises:
            UsageError: If the model has none.
        """
        self._layers = [m for m in runner.model.modules() if isinstance(m, DropBlock)]
        if not self._layers:
            raise UsageError(
                "mmhcgnet.DropBlockHook finds no DropBlock in the model: add "
                "dropblock=dict(block_size=2) to model.backbone, or remove the hook."
            )

    def before_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Set the strength of every DropBlock."""
        strength = (1 - math.cos(math.pi * _place_in_cycle(runner))) / 2
        for layer in self._layers:
            layer.strength = strength


def _place_in_cycle(runner: Runner) -> float:
    """The part of the learning rate's present cycle that is over, from 0 to 1."""
    schedulers = runner.param_schedulers or []
    if isinstance(schedulers, dict):  # of several optimisers
        schedulers = list(itertools.chain(*schedulers.values()))
    # Each with its own count of steps since it began.
    counted = [
        (scheduler, (runner.epoch if scheduler.by_epoch else runner.iter) - scheduler.begin)
        for scheduler in schedulers
        if scheduler.param_name == "lr"
    ]
    if any(_warms_up(s) and 0 <= step < s.end - s.begin for s, step in counted):
        return 0.0
    cosines = [(_periods(s), step) for s, step in counted if _periods(s)]
    if not cosines:
        return runner.iter / runner.max_iters
    place = 0.0
    for periods, step in cosines:
        if step >= 0:  # of those that follow one another, the last that has begun
            place = _place(periods, step)
    return place


def _warms_up(scheduler: _ParamScheduler) -> bool:
    if isinstance(scheduler, LinearParamScheduler):
        return scheduler.start_factor < scheduler.end_factor
    if isinstance(scheduler, ConstantParamScheduler):
        return scheduler.factor < 1
    return "Warmup" in type(scheduler).__name__  # MMDetection's, which MMEngine does not have


def _periods(scheduler: _ParamScheduler) -> Sequence[int]:
    if isinstance(scheduler, CosineAnnealingParamScheduler):
        return [scheduler.T_max]
    return scheduler.periods if isinstance(scheduler, CosineRestartParamScheduler) else []


def _place(periods: Sequence[int], step: int) -> float:
    for period in periods:
        if step < period:
            return step / period
        step -= period
    return 1.0
