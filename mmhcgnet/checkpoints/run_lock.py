"""One run a folder, as two would delete each other's checkpoints; one writer at a time."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

from mmhcgnet.errors import UsageError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = "run.lock"


def lock_folder(folder: str) -> TextIO | None:
    """Lock a folder for the run of this process.

    The kernel releases the lock when the process ends, however it ends. The file stays.

    Args:
        folder: An existing folder.

    Returns:
        What holds the lock until it is closed; ``None`` if this process holds it already, or where
        there are no locks, as on some network drives.

    Raises:
        UsageError: If a run of another process holds it.
    """
    if fcntl is None:
        return None
    path, own = os.path.join(folder, LOCK), f"process {os.getpid()} on {socket.gethostname()}"
    try:
        file = open(path, "a+", errors="replace")
    except OSError:
        return None  # whoever writes there will be told
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().strip() or "another process"
        file.close()
        if holder == own:
            return None
        raise UsageError(
            f"Another run trains in {folder} ({holder}), and each would delete the other's "
            "checkpoints: wait for its end, end it, or give this one another work_dir."
        ) from None
    except OSError:
        file.close()
        return None
    try:
        file.truncate(0)
        print(own, file=file, flush=True)
    except OSError:
        pass  # the lock holds also if a full disk does not take its owner's name
    return file


@contextmanager
def one_at_a_time(folder: str) -> Iterator[None]:
    """Wait for other processes that are in this block for the same folder, where there are locks.

    Args:
        folder: Made if it does not exist. Nothing is written into it.
    """
    descriptor = None
    try:
        # Whoever cannot lock, or make the folder, will be told when it writes there.
        with suppress(OSError, AttributeError):
            os.makedirs(folder, exist_ok=True)
            descriptor = os.open(folder, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        if descriptor is not None:
            os.close(descriptor)
