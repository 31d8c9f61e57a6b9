"""MMEngine's runner, with what only a file needs kept off the terminal."""

from __future__ import annotations

import logging
from typing import Any

from mmengine.logging import MMLogger
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

_LINES = 10  # what is longer is not read as it passes
# MMEngine's own hooks use what it is about to remove.
_NOISE = ('"FileClient" will be deprecated', '"HardDiskBackend" is the alias')


class _ForTerminals(logging.Filter):
    """Leaves out what concerns nobody and, at the start, records of many lines but warnings."""

    def __init__(self) -> None:
        super().__init__()
        self.is_starting = True

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if text.startswith(_NOISE):
            return False
        is_warning = record.levelno >= logging.WARNING
        return is_warning or not self.is_starting or text.count("\n") < _LINES


@RUNNERS.register_module()
class QuietRunner(Runner):
    """Logs the environment, the config and the list of hooks to the file alone.

    The terminal would show 300 to 900 lines before the first step. In all else it is MMEngine's
    ``Runner``.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._filter = _ForTerminals()
        super().__init__(*args, **kwargs)
        self._filter.is_starting = False

    def build_logger(self, *args: Any, **kwargs: Any) -> MMLogger:
        """Build the logger, whose terminal leaves out what the log file has."""
        logger = super().build_logger(*args, **kwargs)
        for handler in logger.handlers:
            if not isinstance(handler, logging.FileHandler):
                handler.addFilter(self._filter)
        return logger
