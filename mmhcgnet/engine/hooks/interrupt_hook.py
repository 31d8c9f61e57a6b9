"""Saving at a signal, and before an error ends the run."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from traceback import walk_stack, walk_tb
from types import FrameType
from typing import Any

import torch
from mmengine.dist import all_reduce, barrier, get_world_size, is_main_process
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner

from mmhcgnet.engine.carried_state import has_stepped
from mmhcgnet.errors import UsageError

from .safe_checkpoint_hook import SafeCheckpointHook

SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1")
# Seconds in which the processes of a distributed run may end together, before each ends by itself:
# launchers kill after 10 (docker) or 30 (torchrun, Kubernetes).
_GRACE = 5


class _Asked(BaseException):
    """A signal has come while the state is whole."""


@HOOKS.register_module()
class InterruptHook(Hook):
    """At a signal, save a checkpoint and end; save one, too, before an error ends the run.

    The signal may reach any of the processes of a distributed run, and all end alike: after the
    next iteration in which the optimiser makes a step. The file is ``interrupted_iter_<n>.pth``,
    and :class:`SafeCheckpointHook`, which this hook needs, deletes it once it has saved the next
    checkpoint. The exit code is 128 plus the signal's number, as a shell has it.

    :class:`ResumableEpochLoop` and :class:`ResumableIterLoop` say when no iteration is in progress,
    so that the state is whole: while a batch is awaited and in validations. There a run ends at
    once; if it is distributed, the first process saves by itself if they did not end together
    within five seconds. An error that ends the run there, such as that of an image that cannot be
    read or of a worker that was killed, is saved before, too, and the error is raised as ever. Not
    so one that a hook raises, which may have left the state half changed.

    SIGINT (Ctrl-C) a second or more after the first signal ends the process at once. Other signals
    may be repeated, as schedulers do. Before and after the training, signals act as ever, and one
    that the process was started to ignore stays ignored. Saving does not depend on whether a
    message can be printed.

    Args:
        signals: The names of the signals. The default holds what ends a process and is sent by
            launchers and schedulers, by Ctrl-C, and by a terminal or an ssh connection that closes.

    Raises:
        ValueError: If a name is not one of a signal that a process can handle.
    """

    # After whatever else belongs to the state that is saved.
    priority = "LOWEST"

    def __init__(self, signals: Sequence[str] = SIGNALS) -> None:
        known = signal.Signals.__members__.keys() - {"SIGKILL", "SIGSTOP", "SIGALRM", "SIGCHLD"}
        if isinstance(signals, str) or (wrong := {*signals} - known - {*SIGNALS}):
            found = repr(signals) if isinstance(signals, str) else ", ".join(map(str, wrong))
            raise ValueError(
                f"signals of mmhcgnet.InterruptHook must be a list of names such as SIGTERM, got "
                f"{found}."
            )
        # Windows has fewer of them.
        self.signals = [signal.Signals[name] for name in signals if name in known]
        self._received = 0
        self._since = 0.0
        self._resting = self._validating = False
        self._saver: SafeCheckpointHook | None = None
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
        self._pid, self._alone = os.getpid(), get_world_size() == 1
        if threading.current_thread() is not threading.main_thread():
            return  # Python lets no other thread handle signals.
        for number in self.signals:
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                self._former[number] = signal.signal(number, self._receive)
        if hasattr(signal, "SIGALRM"):
            self._former[signal.SIGALRM] = signal.signal(signal.SIGALRM, self._press)

    def after_train_iter(self, runner: Runner, batch_idx: int, *args: Any, **kwargs: Any) -> None:
        """End here, but for the last iteration of an epoch, which ends with it."""
        if not _has_epochs(runner) or not self.end_of_epoch(runner.train_dataloader, batch_idx):
            self._end_if_asked(runner, runner.epoch, runner.iter + 1)

    def after_train_epoch(self, runner: Runner) -> None:
        """End here."""
        if _has_epochs(runner):
            self._end_if_asked(runner, runner.epoch + 1, runner.iter)

    def before_val_epoch(self, runner: Runner) -> None:
        """Note that the model may have EMA's weights now."""
        self._validating = True

    def after_val_iter(self, *args: Any, **kwargs: Any) -> None:
        """End here.

        Processes may have different numbers of batches to validate, so that those of a distributed
        run cannot agree here.
        """
        if self._received and self._resting and self._alone:
            raise _Asked

    def after_val_epoch(self, runner: Runner, metrics: dict | None = None) -> None:
        """Note that it has the trained weights again; the run ends at the next batch."""
        self._validating = False

    def before_rest(self, runner: Runner) -> None:
        """From now on the state stays whole, and a signal may end the run at once."""
        if self._saver is not None and has_stepped(runner):
            if self._received and self._alone:
                raise _Asked
            self._resting = True

    def after_rest(self, runner: Runner) -> None:
        """The state changes again."""
        self._resting = False

    def cut_off(self, runner: Runner, error: BaseException) -> None:
        """Save what a signal or an error has left whole.

        Args:
            runner: The runner.
            error: What ends the run.
        """
        self._resting = False
        asked = isinstance(error, _Asked)
        spoilt = _in_hook(frame for frame, _ in walk_tb(error.__traceback__))
        if asked or (isinstance(error, Exception) and not spoilt and self._saver is not None):
            self._save_whole(runner, asked)
        self._restore()
        if asked or (self._received and isinstance(error, Exception)):
            raise SystemExit(128 + self._received)

    def after_train(self, runner: Runner) -> None:
        """Give the signals back, and obey the one that has come too late to stop anything."""
        self._restore()
        if self._received:
            raise SystemExit(128 + self._received)

    def let_go(self, runner: Runner) -> None:
        """Give the signals back where an error ends the run and its process goes on."""
        self._restore()

    def _end_if_asked(self, runner: Runner, epoch: int, iteration: int) -> None:
        if self._saver is None or not has_stepped(runner):
            return
        number = self._received
        if get_world_size() > 1:
            numbers = torch.tensor(number)
            all_reduce(numbers, op="max")
            number = int(numbers)
        if not number:
            return
        self._received = number
        self._save(runner, epoch, iteration)
        # A process that ends makes the launcher end the others.
        barrier()
        self._restore()
        raise SystemExit(128 + number)

    def _save_whole(self, runner: Runner, asked: bool) -> None:
        if self._validating:
            self._validating = False
            for hook in runner.hooks:
                # MMPretrain's hook can be told to validate with the trained weights alone.
                if isinstance(hook, EMAHook) and getattr(hook, "evaluate_on_ema", True):
                    hook._swap_ema_parameters()
        if asked and not is_main_process():
            time.sleep(_GRACE)  # the first one saves, and a process that ends has all others killed
        else:
            try:
                self._save(runner, runner.epoch, runner.iter, everywhere=not asked)
            except UsageError as fault:
                if asked or self._received:
                    raise
                runner.logger.warning(str(fault))

    def _save(self, runner: Runner, epoch: int, iteration: int, everywhere: bool = False) -> None:
        path = self._saver.save_interrupted(runner, epoch, iteration, everywhere)
        what = signal.Signals(self._received).name if self._received else "an error"
        told = f"saved {path}, from which the run can be resumed" if path else "nothing was trained"
        runner.logger.log(
            logging.INFO if self._received else logging.WARNING,
            f"Ended by {what} after iteration {iteration}: {told}.",
        )

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            # A child that was forked. A terminal sends SIGINT to all of them.
            if number != signal.SIGINT:
                signal.signal(number, signal.SIG_DFL)
                os.kill(os.getpid(), number)
            return
        if not self._received:
            self._received, self._since = number, time.monotonic()
            name = signal.Signals(number).name
            # Neither print nor logging may be used in here: they may be at work already. And there
            # may be nobody to read it any more.
            with suppress(OSError):
                os.write(2, f"\n{name}: saving, then ending; Ctrl-C to end at once\n".encode())
            if signal.SIGALRM in self._former:
                signal.setitimer(signal.ITIMER_REAL, 1 if self._alone else _GRACE, 1)
            if self._alone:
                self._press(number, frame)
        # At Ctrl-C torchrun sends the signal once more than the terminal does.
        elif number == signal.SIGINT and time.monotonic() - self._since >= 1:
            self._restore()
            os.kill(self._pid, number)

    def _press(self, number: int, frame: FrameType | None) -> None:
        """End at once if the state is whole, which it may not be while a hook is at work."""
        if self._resting and not _in_hook(frame for frame, _ in walk_stack(frame)):
            raise _Asked

    def _restore(self) -> None:
        if signal.SIGALRM in self._former:
            signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in self._former.items():
            signal.signal(number, handler)
        self._former.clear()


def _in_hook(frames: Iterable[FrameType]) -> bool:
    return any(frame.f_code is Runner.call_hook.__code__ for frame in frames)


def _has_epochs(runner: Runner) -> bool:
    return isinstance(runner.train_loop, EpochBasedTrainLoop)
