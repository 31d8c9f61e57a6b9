"""Loops for configs, by the type ``mmhcgnet.<name>``."""

from .loops import ResumableEpochLoop, ResumableIterLoop

__all__ = ["ResumableEpochLoop", "ResumableIterLoop"]
