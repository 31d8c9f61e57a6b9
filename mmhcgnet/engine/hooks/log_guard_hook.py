"""A log that cannot be written does not end a run."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import Any

from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner

_WRITERS = ("add_config", "add_graph", "add_image", "add_scalar", "add_scalars")


@HOOKS.register_module()
class LogGuardHook(Hook):
    """Warn once, and go on, where a log cannot be written: a full disk, a folder that has gone.

    It guards the text log and MMEngine's visualization backends (``vis_data``, TensorBoard). A
    checkpoint that cannot be written still ends the run, see :class:`SafeCheckpointHook`.
    """

    priority = "HIGHEST"

    def before_run(self, runner: Runner) -> None:
        """Guard what this runner writes."""
        self._has_warned = False
        for backend in runner.visualizer._vis_backends.values():
            for name in _WRITERS:
                write = getattr(backend, name)
                if not hasattr(write, "unguarded"):
                    setattr(backend, name, self._guarded(write))
        for handler in runner.logger.handlers:
            # Called by logging where it handles an error; its own prints a traceback for each line.
            handler.handleError = lambda record: self._warn()

    def _guarded(self, write: Callable) -> Callable:
        @wraps(write)
        def guarded(*args: Any, **kwargs: Any) -> None:
            try:
                write(*args, **kwargs)
            except OSError as error:
                self._warn(f" ({error.strerror or error})")

        guarded.unguarded = write
        return guarded

    def _warn(self, why: str = "") -> None:
        if not self._has_warned:
            self._has_warned = True
            # Not by logging, which may be what fails.
            with suppress(OSError):
                text = f"warning: A log cannot be written{why}: the run goes on without it.\n"
                os.write(2, text.encode(errors="replace"))
