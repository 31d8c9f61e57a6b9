"""What can go wrong by the user's doing: exceptions, and hints at what a misspelt word meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def readable(text: str) -> str:
    """Show what a file has named: control characters, as of a new line or a colour, as escapes."""
    if text.isprintable():
        return text
    return "".join(
        char if char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


class ReadableError(Exception):
    """Its message is one line, whatever the names in it."""

    def __str__(self) -> str:
        return readable(super().__str__())


class UsageError(ReadableError, ValueError):
    """A mistake that the user can fix; its message is one sentence that says how."""


class MissingFileError(UsageError, FileNotFoundError):
    """A file or folder that the command line or the config names does not exist."""


class DataError(UsageError):
    """Something is wrong with the images or annotations; the message names the file or key."""


class UnknownArgumentError(UsageError, TypeError):
    """An argument that a class of the config does not have."""


class PretrainedMismatchError(UsageError, RuntimeError):
    """Pretrained weights that are not those of the backbone."""


def did_you_mean(word: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``" (did you mean …?)"`` for the candidates close to ``word``, or nothing.

    Args:
        word: What was written.
        candidates: What could have been meant.
        cutoff: How alike they must be, from 0 to 1; short words want less.
    """
    close = difflib.get_close_matches(word, sorted(set(candidates)), n=3, cutoff=cutoff)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
