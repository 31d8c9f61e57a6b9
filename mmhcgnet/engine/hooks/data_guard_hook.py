"""Naming the file that cannot be loaded, and evaluating what was loaded."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhcgnet.engine.runner.data_loading import guard_loader
from mmhcgnet.engine.runner.evaluation import guard_evaluator


@HOOKS.register_module()
class DataGuardHook(Hook):
    """Name the file that cannot be loaded in validation and testing, and see to COCO's metrics.

    In training, :class:`ResumableEpochLoop` and :class:`ResumableIterLoop` name it.

    The metrics are right, too, for ids below 1, ids that are strings, categories whose ids do not
    ascend, and tests of a part of the annotated images; for other files they stay as they are.
    """

    def before_val(self, runner: Runner) -> None:
        """Guard the dataloader and the evaluator of the validation."""
        guard_evaluator(getattr(runner.val_loop, "evaluator", None))
        runner.val_loop.dataloader = guard_loader(runner.val_loop.dataloader)

    def before_test(self, runner: Runner) -> None:
        """Guard the dataloader and the evaluator of the test."""
        guard_evaluator(getattr(runner.test_loop, "evaluator", None))
        runner.test_loop.dataloader = guard_loader(runner.test_loop.dataloader)
