"""The checkpoint that a run resumes from: the newest whole one in its folders."""

from __future__ import annotations

import logging
import os
import re
import string
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from mmengine.logging import print_log

from mmhcgnet.errors import UsageError, readable
from mmhcgnet.weights import listed

from .checkpoint import Checkpoint

EVERY = r".*\.pth"
POINTER = "last_checkpoint"  # the file in which MMEngine names the newest checkpoint


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

    What a checkpoint says of itself decides. Of one run, which is told by its id, it is the one
    of the latest iteration, as clocks go wrong. Among several runs, the one of which
    ``last_checkpoint`` names a file comes first, then the one that saved last; a file without an id
    is a run of its own. Neither the file's date decides, which copies do not keep, nor the pointer
    within a run, as it may be stale. The best ones (``best_*``) have no optimiser state and do not
    count.

    Args:
        folders: Where to look.
        patterns: Regular expressions of the names to look for.
        log: Whether to say why newer ones are skipped, and where the times are in another order.

    Returns:
        The checkpoint, or ``None`` if there is none at all.

    Raises:
        UsageError: If there are some and none can be resumed from: no run should start over
            where another one has left its work.
    """
    folders = list(folders)
    pattern = re.compile("|".join(f"({pattern})" for pattern in patterns))
    paths = {
        str(path)
        for folder in folders
        for path in Path(folder).glob("*")
        if pattern.fullmatch(path.name) and not path.name.startswith(("best_", "."))
    }
    skipped: dict[str, str] = {}
    outlines: dict[str, Checkpoint] = {}
    for path in sorted(paths):
        try:
            outline = Checkpoint.open(path, in_full=False)
            if not outline.has_training_state:
                lacking = ", ".join(outline.lacks)
                raise UsageError(f"The checkpoint {path} has no {lacking}.")
            outlines[path] = outline
        except UsageError as error:
            skipped[path] = str(error)
    newest = None
    for path in _from_newest(outlines, pointed(folders)):
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
            later = [o for o in outlines.values() if o.run and o.run == newest.run]
            later = [o for o in later if o.saved_at > newest.saved_at and o.path not in skipped]
            if later:
                print_log(
                    f"By their times {listed([o.path for o in later], 'files')} were saved later, "
                    "with fewer iterations: the iteration decides; check the clock.",
                    level=logging.WARNING,
                )
    return newest


def _from_newest(outlines: dict[str, Checkpoint], name: str | None) -> list[str]:
    """Sort the paths of checkpoints."""
    pointed_run = next((o.run for p, o in outlines.items() if Path(p).name == name), None)
    times: dict[str, float] = {}  # of the last save of each run
    for path, outline in outlines.items():
        run = outline.run or path
        times[run] = max(times.get(run, 0.0), outline.saved_at)

    def age(path: str) -> tuple[bool, float, int, float]:
        outline = outlines[path]
        first = outline.run is not None and outline.run == pointed_run
        return first, times[outline.run or path], outline.iteration, outline.saved_at

    return sorted(outlines, key=age, reverse=True)


def pointed(folders: Iterable[str]) -> str | None:
    """The name of the file that MMEngine's pointer names; its folder may have been moved."""
    for folder in folders:
        with suppress(OSError):
            path = os.fsdecode(Path(folder, POINTER).read_bytes()).strip()
            return os.path.basename(path)
    return None
