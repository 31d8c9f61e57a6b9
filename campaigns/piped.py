"""Runs a script with its outputs in a named pipe, for the campaign of signals."""

from __future__ import annotations

import os
import runpy
import signal
import sys
from pathlib import Path


def main() -> None:
    """``FIFO SCRIPT ARGS``: run a script; with ``-`` its outputs are not piped."""
    fifo, script, *args = sys.argv[1:]
    # A campaign that nohup or a shell's & has started ignores some of them.
    for name in ("SIGTERM", "SIGHUP", "SIGUSR1"):
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    if fifo != "-":
        descriptor = os.open(fifo, os.O_WRONLY)
        for output in (1, 2):
            os.dup2(descriptor, output)
        os.close(descriptor)
    sys.argv, sys.path[0] = [script, *args], str(Path(script).parent)
    runpy.run_path(script, run_name="__main__")


if __name__ == "__main__":
    main()
