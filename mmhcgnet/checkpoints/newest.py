"""The checkpoint that a run resumes from: the newest whole one in its folders."""

from __future__ import annotations

import logging
import re
import string
from collections.abc import Iterable
from pathlib import Path

from mmengine.logging import print_log

from mmhcgnet.errors import UsageError, readable

from .checkpoint import Checkpoint

EVERY = r".*\.pth"


def name_pattern(template: str) -> str:
    """The regular expression of the names that a template such as ``epoch_{}.pth`` gives."""
    parts = string.Formatter().parse(template)
    return "".join(
        re.escape(text) + (r"\d+" if field is not None else "") for text, field, *_ in parts
    )


def find_newest(
    folders: Iterable[str], patterns: Iterable[str] = (EVERY,), log: bool = True
) -> Checkpoint | None:
    """Open the newest checkpoint that is whole and holds all that resuming takes.

    What a checkpoint says of itself decides, its time and then its iteration: neither the pointer
    ``last_checkpoint``, which may be lost or stale, nor the file's own date, which copies do not
    keep. The best ones (``best_*``) have no optimiser state and do not count.

    Args:
        folders: Where to look.
        patterns: Regular expressions of the names to look for.
        log: Whether to say why newer ones are skipped.

    Returns:
        The checkpoint, or ``None`` if there is none at all.

    Raises:
        UsageError: If there are some and none can be resumed from: no run should start over
            where another one has left its work.
    """
    pattern = re.compile("|".join(f"({pattern})" for pattern in patterns))
    paths = {
        str(path)
        for folder in folders
        for path in Path(folder).glob("*")
        if pattern.fullmatch(path.name) and not path.name.startswith(("best_", "."))
    }
    skipped: dict[str, str] = {}
    ages: dict[str, tuple[float, int]] = {}
    for path in sorted(paths):
        try:
            outline = Checkpoint.open(path, in_full=False)
            if not outline.has_training_state:
                lacking = ", ".join(outline.lacks)
                raise UsageError(f"The checkpoint {path} has no {lacking}.")
            ages[path] = outline.saved_at, outline.iteration
        except UsageError as error:
            skipped[path] = str(error)
    newest = None
    for path in sorted(ages, key=ages.__getitem__, reverse=True):
        try:
            newest = Checkpoint.open(path)  # with its checksum
            break
        except UsageError as error:
            skipped[path] = str(error)
    if newest is None and skipped:
        first, *others = skipped.values()
        also = f" The same goes for {len(others)} more." if others else ""
        raise UsageError(f"Cannot resume from any of the checkpoints: {first}{also}")
    if log:
        for reason in skipped.values():
            print_log(f"Skipped: {reason}", level=logging.WARNING)
        if newest:
            print_log(f"Resuming from {readable(newest.path)}, iteration {newest.iteration}.")
    return newest
