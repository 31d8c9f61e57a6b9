"""Runs that stand still in a phase until a signal was sent, for the campaign of signals.

The config of such a run names what is registered here; its environment says where and when.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from mmcv.transforms import BaseTransform
from mmengine.hooks import Hook
from mmengine.registry import HOOKS, TRANSFORMS
from mmengine.runner import Runner

FOLDER, PHASE = "PAUSE_FOLDER", "PAUSE_PHASE"  # in the environment
PHASES = ("train", "load", "val", "save")
ITERATION = 6  # that many are done in the phases train and val: one epoch
SAVED = 10  # and in the phase save
LIMIT = 60  # seconds


def mark(name: str, text: object = "") -> None:
    """Tell the campaign something, at once or not at all."""
    path = Path(os.environ[FOLDER], name)
    hidden = path.with_name(f".{name}.{os.getpid()}")
    hidden.write_text(str(text))
    hidden.rename(path)


class _Once:
    """Stands still one time in each process."""

    process = 0

    def __call__(self) -> None:
        if self.process == os.getpid():
            return
        self.process = os.getpid()
        mark(f"arrived.{os.getpid()}")
        sent, end = Path(os.environ[FOLDER], "sent"), time.monotonic() + LIMIT
        while not sent.exists():
            if time.monotonic() > end:
                mark("left")  # without the signal
                return
            time.sleep(0.005)


_pause = _Once()


@HOOKS.register_module()
class PauseHook(Hook):
    """Stands still in an iteration, in a validation or while a checkpoint is written."""

    def before_train(self, runner: Runner) -> None:
        """Prepare it."""
        mark(f"pid.{runner.rank}", os.getpid())
        phase, fsync = os.environ[PHASE], os.fsync
        self._rank = runner.rank

        def forward(module: object, inputs: object) -> None:
            if runner.iter == ITERATION and phase == ("train" if module.training else "val"):
                _pause()

        def write(descriptor: int) -> None:
            fsync(descriptor)
            # Its temporary name begins with a dot and goes on as the file's.
            if f"/.iter_{SAVED}.pth" in os.readlink(f"/proc/self/fd/{descriptor}"):
                _pause()

        model = getattr(runner.model, "module", runner.model)
        model.backbone.register_forward_pre_hook(forward)
        if phase == "save":
            os.fsync = write

    def before_train_epoch(self, runner: Runner) -> None:
        """Let the loader stand still, too, in the second epoch."""
        if runner.iter == ITERATION and os.environ[PHASE] == "load":
            mark("armed")

    def before_rest(self, runner: Runner) -> None:
        """Say that a batch is awaited, and after how many iterations."""
        mark(f"rest.{self._rank}", runner.iter)

    def after_rest(self, runner: Runner) -> None:
        """It has come."""
        Path(os.environ[FOLDER], f"rest.{self._rank}").unlink()


@TRANSFORMS.register_module()
class PauseTransform(BaseTransform):
    """Stands still in the second batch that a process loads of the second epoch.

    Args:
        batch_size: Of this process.
    """

    def __init__(self, batch_size: int) -> None:
        self._left = batch_size

    def transform(self, results: dict) -> dict:
        """Let an image pass."""
        if FOLDER in os.environ and Path(os.environ[FOLDER], "armed").exists():
            self._left -= 1
            if self._left < 0:
                _pause()
        return results
