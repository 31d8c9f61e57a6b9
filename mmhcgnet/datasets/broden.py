"""Densely labelled images in the format of Broden, the data set of network dissection.

Bau et al., Network Dissection: Quantifying Interpretability of Deep Visual Representations,
CVPR 2017, https://arxiv.org/abs/1704.05796. A folder holds

- ``index.csv``: a row for each image with ``image`` (a file of ``images/``), the size ``sh``,
  ``sw`` of its label maps, and a column for each category. A cell has parts that ``;`` separates:
  a label map (a file of ``images/``) or a number, the label of the whole image;
- ``label.csv``: ``number``, ``name`` and ``category`` of each label, the latter as
  ``object(123);part(4)`` with numbers of images;
- ``category.csv``: the ``name`` of each category.

A pixel of a label map has the label ``R + 256 * G``; 0 means no label.
"""

from __future__ import annotations

import csv
import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import mmcv
import numpy as np

from mmhcgnet.errors import DataError, MissingFileError, UsageError

_FILES = ("index.csv", "label.csv", "category.csv")
_CATEGORY = re.compile(r"(?P<name>[^()]+)(?:\((?P<images>\d+)\))?")


@dataclass(frozen=True)
class Annotation:
    """The labels of an image.

    Attributes:
        labels: The numbers of the labels that it has, ``(L,)``.
        masks: Where each of them is, bool, ``(L, sh, sw)``.
    """

    labels: np.ndarray
    masks: np.ndarray


class Broden:
    """A folder in the format of Broden.

    Args:
        root: The folder.
        images: How many images to take, spread evenly over the index; 0 takes all.

    Attributes:
        categories (tuple[str]): Names of the categories.
        names (list[str]): Name of each label by its number; 0 and gaps are empty.
        category_of (np.ndarray): Index of each label's category by its number; -1 for gaps. Of
            several categories, as an object can be a part, it is the one with the most images.
        rows (list[dict[str, str]]): What the index says of each image.
        fingerprint (str): Distinguishes the index and the labels from any others.

    Raises:
        MissingFileError: If the folder or one of its tables does not exist.
        UsageError: If ``images`` is negative.
        DataError: If a table is not as described above.
    """

    def __init__(self, root: str | Path, images: int = 0) -> None:
        if images < 0:
            raise UsageError(f"images must be a number of images, or 0 for all, got {images}.")
        self.root = Path(root)
        digest = hashlib.sha256()
        for name in _FILES:
            if not (self.root / name).is_file():
                raise MissingFileError(
                    f"{self.root / name} does not exist: data must be a folder in the format of "
                    f"Broden, with {', '.join(_FILES)} and images."
                )
            digest.update((self.root / name).read_bytes())
        self.fingerprint = digest.hexdigest()
        self.categories = tuple(row["name"] for row in self._read("category.csv", ["name"]))
        self._read_labels()
        rows = self._read("index.csv", ["image", "sh", "sw", *self.categories])
        if images:
            chosen = np.linspace(0, len(rows) - 1, min(images, len(rows))).round().astype(int)
            rows = [rows[i] for i in chosen]
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def path(self, index: int) -> Path:
        """Path of an image."""
        return self.root / "images" / self.rows[index]["image"]

    def load(self, index: int, size: tuple[int, int], channel_order: str = "bgr") -> np.ndarray:
        """Read an image.

        Args:
            index: Which one.
            size: Height and width in pixels to which it is resized, whatever its proportions, as
                its label maps are.
            channel_order: ``'bgr'`` or ``'rgb'``.

        Returns:
            uint8, ``(H, W, 3)``.

        Raises:
            DataError: If it cannot be read.
        """
        path = self.path(index)
        try:
            image = mmcv.imread(path, channel_order=channel_order)
        except (OSError, cv2.error) as error:
            raise DataError(f"The image {path} cannot be read: {error}") from error
        if image is None:
            raise DataError(f"The image {path} cannot be decoded.")
        height, width = size
        return image if image.shape[:2] == size else mmcv.imresize(image, (width, height))

    def annotation(self, index: int) -> Annotation:
        """Read the labels of an image; a pixel can have several, each of them once.

        Raises:
            DataError: If a label map cannot be read or has another size than the index says, or a
                label is not in ``label.csv``.
        """
        row = self.rows[index]
        size = self._size(row)
        wholes, maps = set(), []
        for category in self.categories:
            for part in filter(None, (row[category] or "").split(";")):
                if part.isdecimal():
                    wholes.add(int(part))
                else:
                    maps.append(self._read_map(part, size))
        labels = sorted(wholes.union(*(np.unique(labels).tolist() for labels in maps)) - {0})
        unknown = [n for n in labels if n >= len(self.category_of) or self.category_of[n] < 0]
        if unknown:
            raise DataError(
                f"{self.root / 'label.csv'} has no label {unknown[0]}, which {row['image']} has."
            )
        masks = np.zeros((len(labels), *size), dtype=bool)
        for mask, label in zip(masks, labels, strict=True):
            mask[:] = label in wholes
            for other in maps:
                mask |= other == label
        return Annotation(np.array(labels, dtype=np.int64), masks)

    def _read(self, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
        path = self.root / name
        try:
            with open(path, encoding="utf-8", newline="") as file:
                reader = csv.DictReader(file)
                rows, found = list(reader), reader.fieldnames or []
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        missing = [column for column in columns if column not in found]
        if missing:
            raise DataError(f"{path} has no column {' and no '.join(missing)}.")
        if not rows:
            raise DataError(f"{path} has no rows.")
        return rows

    def _read_labels(self) -> None:
        numbers, names, homes = [], [], []
        for row in self._read("label.csv", ["number", "name", "category"]):
            matches = [_CATEGORY.fullmatch(text) for text in (row["category"] or "").split(";")]
            known = {match["name"]: int(match["images"] or 0) for match in matches if match}
            if not (row["number"] or "").isdecimal() or not known or None in matches:
                raise DataError(
                    f"{self.root / 'label.csv'} has a row without a number or a category: {row}."
                )
            unknown = set(known) - set(self.categories)
            if unknown:
                raise DataError(
                    f"{self.root / 'category.csv'} has no category {min(unknown)}, which the "
                    f"label {row['name']} has."
                )
            numbers.append(int(row["number"]))
            names.append(row["name"])
            homes.append(self.categories.index(max(known, key=known.get)))
        self.names = [""] * (max(numbers) + 1)
        self.category_of = np.full(len(self.names), -1)
        for number, name, home in zip(numbers, names, homes, strict=True):
            self.names[number], self.category_of[number] = name, home
        self.category_of[0] = -1

    def _size(self, row: dict[str, str]) -> tuple[int, int]:
        if not all((row[key] or "").isdecimal() and int(row[key]) for key in ("sh", "sw")):
            raise DataError(
                f"{self.root / 'index.csv'} gives {row['image']} no size of label maps (sh, sw)."
            )
        return int(row["sh"]), int(row["sw"])

    def _read_map(self, name: str, size: tuple[int, int]) -> np.ndarray:
        path = self.root / "images" / name
        if not path.is_file():
            raise DataError(f"The label map {path} does not exist.")
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"The label map {path} cannot be decoded.")
        if image.shape[:2] != size:
            raise DataError(
                f"The label map {path} is {image.shape[0]} high and {image.shape[1]} wide, but "
                f"the index says {size[0]} and {size[1]}."
            )
        blue_green_red = image.astype(np.int64)
        return blue_green_red[..., 2] + 256 * blue_green_red[..., 1]
