"""A runner and loops for configs, by the type ``mmhcgnet.<name>``."""

from .loops import ResumableEpochLoop, ResumableIterLoop
from .quiet_runner import QuietRunner

__all__ = ["QuietRunner", "ResumableEpochLoop", "ResumableIterLoop"]
