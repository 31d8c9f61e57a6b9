"""Whether the images that are tested are those whose annotations they are compared with."""

from __future__ import annotations

import os
from collections.abc import Sequence

from .findings import Finding, select


def compare_truth(
    path: str, truth: dict, tested: Sequence[tuple[str, dict]], key: str
) -> list[Finding]:
    """Compare the images of data sets with those of an evaluator, which knows them by their ids.

    Args:
        path: The evaluator's annotation file.
        truth: Its content.
        tested: The data sets' annotation files and their contents, with the images that are taken.
        key: The evaluator's place in the config.
    """
    remedy = f"name the data set's own annotation file as {key}.ann_file"
    file = f"The annotation file {path} of {key}"
    listed = {image["id"]: image for image in truth["images"]}
    seen: dict[object, tuple[str, dict]] = {}
    twice, absent, others = [], [], []
    for place, content in tested:
        for image in content["images"]:
            former = seen.setdefault(image["id"], (place, image))
            if former[1] is not image:
                twice.append((former, (place, image)))
            match = listed.get(image["id"])
            if match is None:
                absent.append((place, image))
            elif _looks(match) != _looks(image):
                others.append((place, image, match))
    found = select(
        "image id in several data sets",
        twice,
        lambda pair: (
            f"The image id {pair[0][1]['id']!r} is {pair[0][1]['file_name']} in {pair[0][0]} and "
            f"{pair[1][1]['file_name']} in {pair[1][0]}, and {key} knows images by their ids alone"
        ),
        "number the images of all files differently, or give each data set a metric of its own "
        "with MMDetection's MultiDatasetsEvaluator",
    )
    found += select(
        "tested image that is not the evaluator's",
        absent,
        lambda pair: (
            f"{file} has no image {pair[1]['id']!r}, which {pair[0]} names {pair[1]['file_name']}"
        ),
        remedy,
    )
    found += select(
        "image id of another image",
        others,
        lambda triple: (
            f"{file} has under the image id {triple[1]['id']!r} {_told(triple[2])}, and "
            f"{triple[0]} has {_told(triple[1])}"
        ),
        remedy,
    )
    return found or _compare_boxes(file, truth, tested, remedy)


def _looks(image: dict) -> tuple:
    # Folders may be part of the name in one file and of the config in the other.
    return os.path.basename(str(image["file_name"])), image["height"], image["width"]


def _told(image: dict) -> str:
    return f"{image['file_name']} of {image['width']}x{image['height']} pixels"


def _compare_boxes(
    file: str, truth: dict, tested: Sequence[tuple[str, dict]], remedy: str
) -> list[Finding]:
    """Recognise other images by their objects, where ids and names coincide."""
    boxes = _boxes(truth)
    found = []
    for place, content in tested:
        ids = {image["id"] for image in content["images"]}
        here = {box for box in _boxes(content) if box[0] in ids}
        there = {box for box in boxes if box[0] in ids}
        common = len(here & there)
        if here and there and 2 * common < min(len(here), len(there)):
            number = f"{common:,} of {len(here):,}" if common else "none"
            text = f"{file} has {number} of the objects that {place} has in the images of those ids"
            kind = "objects unlike the evaluator's"
            found.append(Finding(kind, [text], remedy, harmless=common > 0))
    return found


def _boxes(content: dict) -> set[tuple]:
    return {
        (entry["image_id"], *entry["bbox"])
        for entry in content["annotations"]
        if isinstance(entry.get("bbox"), list)
    }
