"""Naming the file that cannot be loaded."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from mmhcgnet.engine.runner.data_loading import guard_loader


@HOOKS.register_module()
class DataGuardHook(Hook):
    """Name the file that cannot be loaded in validation and testing.

    In training, :class:`ResumableEpochLoop` and :class:`ResumableIterLoop` do so.
    """

    def before_val(self, runner: Runner) -> None:
        """Guard the dataloader of the validation."""
        runner.val_loop.dataloader = guard_loader(runner.val_loop.dataloader)

    def before_test(self, runner: Runner) -> None:
        """Guard the dataloader of the test."""
        runner.test_loop.dataloader = guard_loader(runner.test_loop.dataloader)
