"""Saving at a signal."""

from __future__ import annotations

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from .safe_checkpoint_hook import SafeCheckpointHook


@HOOKS.register_module()
class InterruptHook(Hook):
    """At SIGTERM or SIGINT (Ctrl-C), save a checkpoint and end.

    The signal may reach any of the processes of a distributed run, and all end alike: after the
    next iteration in which the optimiser makes a step, as gradients that are still accumulated
    would be lost. The file is ``interrupted_iter_<n>.pth``, and :class:`SafeCheckpointHook`, which
    this hook needs, deletes it once it has saved the next checkpoint. The exit code is 128 and the
    signal's number, as a shell has it. During a validation a run ends at once if the state before
    it has been saved, or else at its end.

    A second signal, a second or more after the first, ends the process at once. Before and after
    the training, signals act as ever, and one that the process was started to ignore stays
    ignored.
    """

    # After whatever else belongs to the state that is saved.
    priority = "LOWEST"

    def __init__(self) -> None:
        self._received = 0
        self._since = 0.0
        self._former: dict[int, Any] = {}

    def before_train(self, runner: Runner) -> None:
        """Take the signals over."""
        savers = [hook for hook in runner.hooks if isinstance(hook, SafeCheckpointHook)]
        self._saver = savers[0] if savers else None
        if self._saver is None:
            runner.logger.warning(
                "mmhcgnet.InterruptHook does nothing without an mmhcgnet.SafeCheckpointHook."
            )
            return
        self._pid = os.getpid()
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread handle signals.
        for number in (signal.SIGTERM, signal.SIGINT):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._former[number] = signal.signal(number, self._receive)

    def after_train_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: dict | None = None,
    ) -> None:
        """End here, but for the last iteration of an epoch, which ends with it."""
        if not _has_epochs(runner) or not self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._end_if_asked(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """End here."""
        if _has_epochs(runner):
            self._end_if_asked(runner, runner.epoch + 1, runner.iter)

    def after_val_iter(
        self,
        runner: Runner,
        batch_idx: int,
        data_batch: Any = None,
        outputs: Any = None,
    ) -> None:
        """End here if nothing is left to be saved.

        The model may have EMA's weights now. Processes may have different numbers of batches to
        validate, so that those of a distributed run cannot agree here.
        """
        if self._received and get_world_size() == 1 and self._saver.has_saved(runner.iter):
            self._end_if_asked(runner, runner.epoch, runner.iter)

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """End here."""
        if self._former:
            self._end_if_asked(runner, runner.epoch, runner.iter)

    def after_train(self, runner: Runner) -> None:
        """Give the signals back, and obey the one that has come too late to stop anything."""
        self._restore()
        if self._received:
            raise SystemExit(128 + self._received)

    def _end_if_asked(self, runner: Runner, epoch: int, iteration: int) -> None:
        if self._saver is None or not _has_stepped(runner.optim_wrapper):
            return
        number = self._received
        if get_world_size() > 1:
            numbers = torch.tensor(number)
            all_reduce(numbers, op="max")
            number = int(numbers)
        if not number:
            return
        path = self._saver.save_interrupted(runner, epoch, iteration)
        # A process that ends makes the launcher end the others.
        barrier()
        self._restore()
        runner.logger.info(
            f"Ended by {signal.Signals(number).name} after iteration {iteration}: saved {path}, "
            "from which the run can be resumed."
        )
        raise SystemExit(128 + number)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A child that was forked, as dataloaders' workers are. A terminal sends SIGINT to all,
            # and the training needs its workers until it has saved.
            if number == signal.SIGTERM:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if not self._received:
            self._received, self._since = number, time.monotonic()
            # Neither print nor logging may be used in here: they may be at work already.
            name = signal.Signals(number).name
            os.write(2, f"\n{name}: saving after this iteration; again to end at once\n".encode())
        # At Ctrl-C torchrun sends the signal once more than the terminal does.
        elif time.monotonic() - self._since >= 1:
            self._restore()
            os.kill(self._pid, number)

    def _restore(self) -> None:
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()


def _has_epochs(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)


def _has_stepped(optim_wrapper: OptimWrapper | OptimWrapperDict) -> bool:
    """Whether no gradients are accumulated for a later step."""
    if isinstance(optim_wrapper, OptimWrapperDict):
        return all(wrapper.should_update() for wrapper in optim_wrapper.values())
    return optim_wrapper.should_update()
