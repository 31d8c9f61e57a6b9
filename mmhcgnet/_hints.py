"""Hints at what a misspelt word may have meant."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, candidates: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``" (did you mean …?)"`` for the candidates close to ``word``, or nothing.

    Args:
        word: What was written.
        candidates: What could have been meant.
        cutoff: How alike they must be, from 0 to 1; short words want less.
    """
    close = difflib.get_close_matches(word, sorted(set(candidates)), n=3, cutoff=cutoff)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
