"""A dataloader's workers: signals are the main process's, and none of them outlives it.

``timeout``, systemd, Slurm and Kubernetes send a signal to all processes of a run. The main process
needs its workers until it has saved, so they ignore it.
"""

from __future__ import annotations

import atexit
import math
import multiprocessing
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from torch.utils.data import DataLoader

from mmhcgnet.processes import signal_when_parent_ends

_IGNORED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGUSR2")
_SLICE = 5.0  # seconds; PyTorch, too, looks that often whether its workers are alive
_SLICES = 4  # at least
_TIMED_OUT = "DataLoader timed out after"  # as PyTorch's error begins


class Sheltered:
    """What a worker does first; then comes the dataloader's own ``worker_init_fn``, if any."""

    def __init__(self, init: Callable[[int], None] | None) -> None:
        self.init = init

    def __call__(self, worker: int) -> None:
        """Leave signals to the main process, and end with it."""
        for name in _IGNORED:
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), signal.SIG_IGN)
        parent = multiprocessing.parent_process()
        if parent is not None and hasattr(signal, "SIGKILL"):
            signal_when_parent_ends(signal.SIGKILL, parent.pid)
        if self.init is not None:
            self.init(worker)


@cache
def kill_at_exit() -> None:
    """At the end of this process, kill the workers that hang; a SIGTERM would not end them."""
    owner = multiprocessing.current_process().pid

    def kill() -> None:
        if multiprocessing.current_process().pid != owner:
            return
        for child in multiprocessing.active_children():
            if child.daemon:
                child.kill()

    atexit.register(kill)


class PatientLoader(DataLoader):
    """A dataloader whose ``timeout`` counts only the time in which this process runs.

    It waits in short slices, of which a process that was suspended (SIGSTOP, a frozen container)
    loses one. That a worker has died is an error where a batch is awaited, and not, as PyTorch's
    handler of SIGCHLD has it, at any moment of an iteration.
    """

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches.

        Raises:
            RuntimeError: If no batch came for ``timeout`` seconds, as PyTorch has it.
        """
        timeout = self.timeout
        slices = max(math.ceil(timeout / _SLICE), _SLICES)
        self.timeout = timeout / slices
        try:
            with _take_handler():
                batches = super().__iter__()
            for worker in getattr(batches, "_workers", ()):
                worker.terminate = worker.kill  # what a hung one does not ignore
        finally:
            self.timeout = timeout
        while True:
            for left in reversed(range(slices)):
                try:
                    with _watch_workers():
                        batch = next(batches)
                    break
                except StopIteration:
                    return
                except RuntimeError as error:
                    if not str(error).startswith(_TIMED_OUT):
                        raise
                    if not left:
                        raise RuntimeError(f"{_TIMED_OUT} {timeout:g} seconds") from error
            yield batch


# PyTorch's handler of SIGCHLD, which raises if a worker has died.
_handlers: list[Callable] = []


def _on_main_thread() -> bool:
    here = threading.current_thread() is threading.main_thread()
    return here and hasattr(signal, "SIGCHLD")


@contextmanager
def _take_handler() -> Iterator[None]:
    """Take away the handler that PyTorch sets, once, when the first workers start."""
    former = signal.getsignal(signal.SIGCHLD) if _on_main_thread() else None
    yield
    if former is not None and (handler := signal.getsignal(signal.SIGCHLD)) != former:
        _handlers[:] = [handler]
        signal.signal(signal.SIGCHLD, former)


@contextmanager
def _watch_workers() -> Iterator[None]:
    """Let it raise in this context alone."""
    if not (_handlers and _on_main_thread()):
        yield
        return
    former = signal.signal(signal.SIGCHLD, _handlers[0])
    try:
        _handlers[0](signal.SIGCHLD, None)  # for those that have died in the meantime
        yield
    finally:
        signal.signal(signal.SIGCHLD, former)
