"""Processes that end with the one that started them."""

from __future__ import annotations

import ctypes
import os
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


def signal_when_parent_ends(number: int, parent: int) -> None:
    """Let the kernel send a signal to this process when the one that started it ends.

    In other systems than Linux nothing happens.

    Args:
        number: The signal; if the parent has ended already, this process gets it now.
        parent: The parent's process id, as it was when this process began.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(number))
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
