"""How tests start scripts, and what they get back.

There are three ways. The fixture ``start`` runs a script in this process: fastest, and with what
the test has patched. The fixture ``warm`` forks a process that has imported the toolboxes, for what
a run leaves behind in a process, for several at once, and for signals. ``run_new`` is for what must
import for itself, and for what is not Python.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools"


class Result(NamedTuple):
    """How a run ended; ``code`` is negative if a signal killed it."""

    code: int
    out: str
    err: str


def run_new(*command: object, cwd: Path | None = None, **env: str) -> Result:
    """Run a command in a new process."""
    process = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env=dict(os.environ, **env),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )
    return Result(process.returncode, process.stdout, process.stderr)


def session_members(leader: int) -> list[int]:
    """The processes of a session, such as that of a run, that have not ended."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            state, _, _, session = path.read_text().rpartition(")")[2].split()[:4]
            if int(session) == leader and state != "Z":
                found.append(int(path.parent.name))
    return found
