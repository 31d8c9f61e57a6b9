"""What a check finds: one kind of fault, with examples and a remedy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

EXAMPLES = 5
ADVICE = "`python tools/misc/check_data.py CONFIG` finds all such faults"

EXTREME = "scale it down or cut it up: decoding and resizing it takes gigabytes"


def is_extreme(width: float, height: float) -> bool:
    """Whether an image has more than 10^8 pixels or is over 1000 times as long as it is wide."""
    return width * height > 1e8 or max(width, height) > 1000 * min(width, height)


@dataclass
class Finding:
    """One kind of fault in a set of images or annotations.

    Attributes:
        kind: A short name to count by.
        examples: The first few, each a clause such as ``"train/7.jpg is empty (0 bytes)"``.
        remedy: What to do, as a clause.
        harmless: Whether a run copes: the annotation is left out, the image converted.
        count: How many there are.
    """

    kind: str
    examples: list[str]
    remedy: str
    harmless: bool = False
    count: int = field(default=1)

    @property
    def sentence(self) -> str:
        """The first example, how many more there are, and the remedy."""
        more = f" (and {self.count - 1:,} more like it)" if self.count > 1 else ""
        return f"{self.examples[0]}{more}: {self.remedy}."


def merge(findings: Iterable[Finding]) -> list[Finding]:
    """Count findings of the same kind together and keep the first examples."""
    merged: dict[str, Finding] = {}
    for new in findings:
        if new.kind not in merged:
            merged[new.kind] = Finding(new.kind, [], new.remedy, new.harmless, 0)
        known = merged[new.kind]
        known.count += new.count
        known.examples += new.examples[: EXAMPLES - len(known.examples)]
    return list(merged.values())


def select(
    kind: str,
    items: Sequence,
    describe: Callable,
    remedy: str,
    harmless: bool = False,
) -> list[Finding]:
    """A finding over the items at fault, or none."""
    if len(items) == 0:
        return []
    examples = [describe(item) for item in items[:EXAMPLES]]
    return [Finding(kind, examples, remedy, harmless, len(items))]


def few(names: Sequence) -> str:
    shown = ", ".join(map(repr, names[:6]))
    return shown + (", ..." if len(names) > 6 else "")
