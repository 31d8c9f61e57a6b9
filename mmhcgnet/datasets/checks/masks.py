"""Masks of COCO files: polygons and run-length encodings, as pycocotools will read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from .findings import Finding, select

# Stands for polygons that are not read.
UNREAD = [[0]]
_CHUNK = 256  # masks that are decoded together
# pycocotools keeps runs in 32 bits, which seven groups of five hold.
_MOST_GROUPS = 7

# kind: (what is said of the annotation, the remedy)
_RULES = {
    "missing mask": (
        "without a mask ('segmentation')",
        "complete it, or load and evaluate no masks",
    ),
    "mask that is no mask": (
        "whose mask is neither polygons nor an RLE of the image's size",
        "write polygons as [[x1, y1, x2, y2, x3, y3, ...], ...]",
    ),
    "mask of less than three points": (
        "whose mask begins with fewer than three points",
        "fix it, or let training ignore it as it does now",
    ),
    "polygon in fractions": (
        "whose box is in pixels while its polygons lie between 0 and 1",
        "multiply their coordinates by the image's width and height",
    ),
    "polygon far outside": (
        "whose polygons reach further outside the image than its own size",
        "clip them, as their masks are computed at that size",
    ),
    "broken RLE": (
        "whose mask, a compressed RLE, {reason}",
        "encode the mask again, with pycocotools' mask.encode",
    ),
}


def inspect_masks(
    annotations: Sequence[dict],
    checked: Sequence[int],
    sizes: np.ndarray,
    boxes: np.ndarray,
    describe: Callable[[int, str], str],
    evaluated: bool,
) -> list[Finding]:
    """Find masks that pycocotools reads as nothing, as noise, or for ever.

    Args:
        annotations: All annotations of a file.
        checked: Which of them to look at.
        sizes: Width and height of each one's image, ``(N, 2)``.
        boxes: Their boxes, ``(N, 4)``.
        describe: Says something of an annotation.
        evaluated: Whether the masks are the truth of an evaluation.
    """
    faults: dict[str, list[int]] = {kind: [] for kind in _RULES}
    packed: list[int] = []
    for i in checked:
        mask = annotations[i].get("segmentation")
        if isinstance(mask, dict) and isinstance(mask.get("counts"), str) and mask["counts"]:
            if _has_size(mask, sizes[i]):
                packed.append(i)
            else:
                faults["mask that is no mask"].append(i)
        elif mask != UNREAD and (kind := _fault(mask, sizes[i], boxes[i], evaluated)):
            faults[kind].append(i)
    reasons: dict[int, str] = {}
    for start in range(0, len(packed), _CHUNK):
        chunk = packed[start : start + _CHUNK]
        counts = [annotations[i]["segmentation"]["counts"] for i in chunk]
        reasons |= {
            chunk[place]: reason
            for place, reason in broken_runs(counts, sizes[chunk].prod(1).astype(int))
        }
    faults["broken RLE"] = sorted(reasons)
    found = []
    for kind, places in faults.items():
        text, remedy = _RULES[kind]
        # A part of two points makes MMDetection ignore the object, and pycocotools fail.
        harmless = kind == "mask of less than three points" and not evaluated
        found += select(
            kind,
            places,
            lambda i, text=text: describe(i, text.format(reason=reasons.get(i))),
            remedy,
            harmless,
        )
    return found


def _fault(mask: object, size: np.ndarray, box: np.ndarray, evaluated: bool) -> str | None:
    """The kind of what is wrong with polygons or an RLE whose runs are a list."""
    if not mask:
        return "missing mask"
    if isinstance(mask, dict):
        counts = mask.get("counts")
        good = (
            _has_size(mask, size)
            and isinstance(counts, list)
            and all(type(count) is int and count >= 0 for count in counts)
            and sum(counts) == size.prod()
        )
        return None if good else "mask that is no mask"
    if not _are_polygons(mask):
        return "mask that is no mask"
    good = [part for part in mask if len(part) >= 6 and len(part) % 2 == 0]
    # pycocotools takes a first part of four numbers for a box.
    if not good or (evaluated and len(mask[0]) <= 4):
        return "mask of less than three points"
    if (box[2:] > 2).all() and all(in_fractions(part) for part in good):
        return "polygon in fractions"
    for part in good:
        for numbers, length in ((part[::2], size[0]), (part[1::2], size[1])):
            if min(numbers) < -length or max(numbers) > 2 * length:
                return "polygon far outside"
    return None


def _has_size(mask: dict, size: np.ndarray) -> bool:
    return mask.get("size") == [size[1], size[0]]


def _are_polygons(mask: object) -> bool:
    """Whether it is lists of numbers; those which are not finite would take all memory."""
    return isinstance(mask, list) and all(
        isinstance(part, list) and all(type(n) in (int, float) and abs(n) < 1e5 for n in part)
        for part in mask
    )


def in_fractions(numbers: Sequence[float]) -> bool:
    """Whether coordinates look like shares of the width and height."""
    return max(numbers) <= 1 and min(numbers) >= 0


def broken_runs(texts: Sequence[str], areas: np.ndarray) -> Iterator[tuple[int, str]]:
    """Decode the runs of compressed RLEs and compare their sums with the images' areas.

    A number is written in groups of five bits, one to a character from ``0`` (48) on: the sixth bit
    says that another group follows, the fifth bit of the last one is the sign. From the fourth
    number on, what is written is the difference from the one before last.

    Args:
        texts: The runs of some masks, none of them empty.
        areas: The pixels of the masks' images, ``(N,)``.

    Yields:
        The places of those that are broken, and why.
    """
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    begins = np.cumsum([0, *map(len, encoded)])[:-1]
    codes = np.frombuffer(b"".join(encoded), np.uint8).astype(np.int64) - 48
    odd = np.logical_or.reduceat((codes < 0) | (codes > 63), begins)
    ends = codes & 32 == 0
    open_ended = ~ends[np.append(begins[1:], len(codes)) - 1] & ~odd
    if odd.any() or open_ended.any():
        for place in np.flatnonzero(odd):
            yield int(place), "has characters that do not occur in one"
        for place in np.flatnonzero(open_ended):
            yield int(place), "is cut off within a number"
        good = np.flatnonzero(~odd & ~open_ended)
        if len(good):
            rest = broken_runs([texts[place] for place in good], areas[good])
            yield from ((int(good[place]), reason) for place, reason in rest)
        return

    starts = np.flatnonzero(np.append(True, ends[:-1]))  # of numbers, which no mask shares
    widths = np.diff(np.append(starts, len(codes)))
    group = np.minimum(np.arange(len(codes)) - np.repeat(starts, widths), _MOST_GROUPS)
    numbers = np.add.reduceat((codes & 31) << 5 * group, starts)
    negative = codes[starts + widths - 1] & 16 != 0
    numbers -= np.where(negative, 1 << 5 * np.minimum(widths, _MOST_GROUPS), 0)

    first = np.searchsorted(starts, begins)  # each mask's first number
    counts = np.diff(np.append(first, len(starts)))
    place = np.arange(len(starts)) - np.repeat(first, counts)
    runs = np.where(place == 0, numbers, 0)
    for parity in (place % 2 == 1), (place % 2 == 0) & (place > 0):
        totals = np.cumsum(np.where(parity, numbers, 0))
        before = np.append(0, totals)[first]
        runs = np.where(parity, totals - np.repeat(before, counts), runs)
    sums = np.add.reduceat(runs, first)
    broken = (np.minimum.reduceat(runs, first) < 0) | (np.maximum.reduceat(runs, first) > 2**32)
    broken |= np.maximum.reduceat(widths, first) > _MOST_GROUPS
    for i in np.flatnonzero(broken | (sums != areas)):
        if broken[i]:
            yield int(i), "has runs that are negative or too long"
        else:
            word = "ends after" if sums[i] < areas[i] else "goes on for"
            yield int(i), f"{word} {sums[i]:,} of {areas[i]:,} pixels"
