"""How the tools show what was counted or measured: tables, JSON, figures."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmhcgnet.checkpoints import write_atomically
from mmhcgnet.checkpoints.checkpoint import find_file
from mmhcgnet.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = (
        [cells[0].ljust(widths[0]), *map(str.rjust, cells[1:], widths[1:])]
        for cells in (header, rule, *rows)
    )
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def number(value: float | None, digits: int = 1, unit: float = 1) -> str:
    """Format a number in units of ``unit``, or the dash that stands for none."""
    return "–" if value is None else f"{value / unit:.{digits}f}"


def write_json(path: str, result: Any) -> None:
    """Write a result, dataclasses included, and the folders on the way, as :func:`write` does."""
    write(path, (json.dumps(result, indent=2, default=dataclasses.asdict) + "\n").encode())


def write(path: str, content: bytes) -> None:
    """Write a file whole or not at all.

    Raises:
        UsageError: If it cannot be written.
    """
    try:
        write_atomically(path, content)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error}") from error


def digest(part: Any) -> str:
    """Show whether a part of a config, or the bytes of a file, are others than before."""
    if not isinstance(part, bytes):
        part = json.dumps(part, sort_keys=True, default=str).encode()
    return hashlib.sha256(part).hexdigest()


def digest_of_weights(checkpoint: str) -> str:
    """Show whether a checkpoint, a file or the name of a network that ships, is another one."""
    return digest(Path(find_file(checkpoint)).read_bytes())


def say(text: str) -> None:
    """Say how far it is, where nobody looks for results."""
    print(text, file=sys.stderr, flush=True)


def make_folder(path: str) -> None:
    """Make the folder in which a file is to be written."""
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)


def check_matplotlib() -> None:
    """Check that figures can be drawn.

    Raises:
        UsageError: If Matplotlib is not installed.
    """
    try:
        import_module("matplotlib")
    except ModuleNotFoundError as error:
        raise UsageError("Drawing needs Matplotlib: pip install matplotlib") from error


def new_figure(width: float, height: float, dpi: int = 100) -> Figure:
    """Make an empty figure of a size in inches, which needs no screen."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=dpi, layout="constrained")
    FigureCanvasAgg(figure)
    return figure
