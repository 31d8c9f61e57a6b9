"""Class folders and lists of images."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np

from .findings import Finding, few, select


def inspect_folders(
    root: str,
    extensions: Sequence[str],
    classes: Sequence[str] | None = None,
) -> tuple[list[str], list[Finding]]:
    """Find what is wrong with a folder that holds one folder of images for each class.

    Args:
        root: The folder.
        extensions: What the names of images end in, in lower case.
        classes: The config's classes.

    Returns:
        The names of the folders in the order of their labels, and what was found.
    """
    with os.scandir(root) as entries:
        folders = sorted(entry.name for entry in entries if entry.is_dir())
    where = f"The image folder {root}"
    suffixes = ", ".join(extensions)
    if not folders:
        text = f"{where} holds no folders of classes"
        remedy = f"sort the images ({suffixes}) into one folder for each class"
        return folders, [Finding("no class folders", [text], remedy)]
    hidden = [name for name in folders if name.startswith(".")]
    if hidden:
        return folders, select(
            "hidden folder",
            hidden,
            lambda name: f"{where} has the hidden folder {name!r}, which counts as a class",
            "remove it",
        )
    empty = [name for name in folders if not any(walk_images(os.path.join(root, name), extensions))]
    if len(empty) == len(folders):
        text = f"{where} holds no images in the folders of its classes"
        return folders, [Finding("no images", [text], f"put images ({suffixes}) there")]
    found = select(
        "class without images",
        empty,
        lambda name: f"{where} has no image in the folder of the class {name!r}",
        f"put images ({suffixes}) there, or remove the folder",
        harmless=True,
    )
    if classes is None:
        return folders, found
    if len(classes) != len(folders):
        text = (
            f"{where} has {len(folders)} folders of classes ({few(folders)}), and the config names "
            f"{len(classes)} classes"
        )
        found.append(Finding("another number of classes", [text], "make both the same"))
    elif set(classes) & set(folders) and list(classes) != folders:
        # Names that have nothing in common are fine: ImageNet's folders are numbers of WordNet.
        pairs = zip(classes, folders, strict=True)
        found += select(
            "classes unlike folders",
            [pair for pair in pairs if pair[0] != pair[1]],
            lambda pair: (
                f"{where} has the folder {pair[1]!r} where the config's classes have "
                f"{pair[0]!r}, in alphabetical order of the folders"
            ),
            "fix the spelling or order of the classes in the config",
        )
    return folders, found


def read_list(
    path: str, labelled: bool = True, num_classes: int | None = None
) -> tuple[list[str], list[Finding]]:
    """Read a list of images, with a label behind each.

    Args:
        path: A text file with ``NAME LABEL`` in each line.
        labelled: Whether there are labels.
        num_classes: How many classes the model distinguishes.

    Returns:
        The names of the images, and what was found.
    """
    where = f"The annotation file {path}"
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "not UTF-8"
        text = f"{where} cannot be read ({told})"
        return [], [Finding("unreadable annotation file", [text], "save it as UTF-8")]
    if text.startswith("\ufeff"):
        text = f"{where} begins with a byte order mark, which becomes part of the first name"
        kind = "annotation file with a byte order mark"
        return [], [Finding(kind, [text], "save it as UTF-8 without one")]
    lines = [line.rstrip("\r") for line in text.removesuffix("\n").split("\n")]
    if not any(line.strip() for line in lines):
        remedy = "write a line with NAME LABEL for each image" if labelled else "list the images"
        return [], [Finding("empty annotation file", [f"{where} names no image"], remedy)]
    if not labelled:
        return lines, []
    pairs = [line.strip().rsplit(" ", 1) for line in lines]
    wrong = [i for i, pair in enumerate(pairs) if len(pair) != 2 or not _is_integer(pair[1])]
    found = select(
        "line without a label",
        wrong,
        lambda i: f"{where} has {lines[i]!r} in line {i + 1} instead of NAME LABEL",
        "end each line with the number of the class",
    )
    if wrong:
        return [], found
    labels = np.array([int(label) for _, label in pairs])
    limit = num_classes if num_classes is not None else np.inf
    found += select(
        "unknown label",
        np.flatnonzero((labels < 0) | (labels >= limit)),
        lambda i: (
            f"{where} has the label {labels[i]} in line {i + 1}, but the model's "
            f"{num_classes} classes count from 0"
        ),
        "fix the labels, or num_classes of the model's head",
    )
    if num_classes is not None:
        present = set(labels.tolist())
        found += select(
            "class without images",
            [label for label in range(num_classes) if label not in present],
            lambda label: f"{where} has no image of class {label}",
            "add some, or lower the number of classes",
            harmless=True,
        )
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    found += select(
        "image listed twice",
        twice,
        lambda name: f"{where} names {name} more than once",
        "name it once",
        harmless=True,
    )
    return [name for name, _ in pairs], found


def walk_images(root: str, extensions: Sequence[str]) -> Iterator[str]:
    """All images under a folder that MMPretrain would read."""
    suffixes = tuple(extensions)
    for folder, _, names in os.walk(root, followlinks=True):
        for name in names:
            path = os.path.join(folder, name)
            if name.lower().endswith(suffixes) and name[0] != "." and os.path.isfile(path):
                yield path


def _is_integer(text: str) -> bool:
    try:
        int(text)
    except ValueError:
        return False
    return True
