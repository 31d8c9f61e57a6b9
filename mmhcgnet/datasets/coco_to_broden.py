"""Any COCO data set with masks in the format of Broden, so that networks can be dissected on it.

Its categories become objects, and every pixel gets the name of its colour. Broden itself names
colours by what people call them in photographs; here hue, saturation and brightness decide.
"""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmengine.utils import track_iter_progress

from mmhcgnet.errors import DataError, MissingFileError, UsageError

from .png import write_png

# The eleven basic colours of English, which are Broden's, too.
COLOURS = (
    *("black", "blue", "brown", "grey", "green", "orange"),
    *("pink", "purple", "red", "white", "yellow"),
)
# Upper ends of hues in OpenCV's half degrees; after the last, the circle is red again.
_HUES = ((8, "red"), (20, "orange"), (33, "yellow"), (85, "green"), (130, "blue"))
_HUES += ((150, "purple"), (170, "pink"), (180, "red"))


def name_colours(image: np.ndarray) -> np.ndarray:
    """Name the colour of each pixel.

    Args:
        image: uint8, ``(H, W, 3)``, in BGR.

    Returns:
        Numbers of ``COLOURS`` from 1, ``(H, W)``.
    """
    hue, saturation, value = cv2.cvtColor(image, cv2.COLOR_BGR2HSV).transpose(2, 0, 1)
    ends, names = zip(*_HUES, strict=True)
    numbers = np.array([COLOURS.index(name) + 1 for name in names])
    labels = numbers[np.searchsorted(ends, hue, side="right").clip(max=len(ends) - 1)]

    def rename(where: np.ndarray, name: str) -> None:
        labels[where] = COLOURS.index(name) + 1

    rename((hue >= 5) & (hue < 20) & (value < 160), "brown")
    rename(saturation < 40, "grey")
    rename((saturation < 40) & (value > 200), "white")
    rename(value < 50, "black")
    return labels


def write_broden(
    annotations: str,
    images: str,
    out: str,
    count: int = 0,
    side: int = 112,
) -> int:
    """Write a folder that ``mmhcgnet.datasets.broden.Broden`` reads; images are copied.

    Args:
        annotations: A JSON file of COCO's instances, with masks.
        images: The folder of its images.
        out: The folder to write, which does not exist or has no ``index.csv``.
        count: How many images to take, the first ones; 0 takes all.
        side: The longer side of the label maps in pixels, at most.

    Returns:
        The number of images.

    Raises:
        MissingFileError: If the annotations do not exist.
        UsageError: If they are not COCO instances with masks, ``out`` is a data set already or
            holds the images themselves, or a number is out of range.
        DataError: If an image cannot be read or has another size than its annotations say.
    """
    if count < 0 or side < 1:
        raise UsageError("The number of images is 0 or above, and the side of the maps above 0.")
    root = Path(out)
    if (root / "index.csv").exists():
        raise UsageError(
            f"{root} is already a data set in Broden's format: name another folder to write to."
        )
    if (root / "images").resolve() == Path(images).resolve():
        raise UsageError(
            f"The label maps would be written among the images in {images}: name another folder "
            "to write to."
        )
    coco = _read_coco(annotations)
    offset = 1 + len(COLOURS)
    numbers = {category: offset + i for i, category in enumerate(sorted(coco.cats))}
    chosen = sorted(coco.imgs)[: count or None]
    rows, seen = [], Counter()
    for key in track_iter_progress(chosen, file=sys.stderr):
        name = coco.imgs[key]["file_name"]
        image = _read_image(Path(images, name), coco.imgs[key])
        target = root / "images" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(Path(images, name), target)
        height, width = image.shape[:2]
        scale = min(1, side / max(height, width))
        size = max(1, round(height * scale)), max(1, round(width * scale))
        small = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
        row = dict(image=name, split="val", ih=height, iw=width, sh=size[0], sw=size[1])
        maps = dict(color=[name_colours(small)], object=_object_maps(coco, key, numbers, size))
        for category, planes in maps.items():
            # A semicolon separates maps.
            stem = name.replace("%", "%25").replace(";", "%3B")
            files = [f"{stem}_{category}{i}.png" for i in range(len(planes))]
            for file, plane in zip(files, planes, strict=True):
                _write_map(root / "images" / file, plane)
            row[category] = ";".join(files)
            seen.update(set(np.unique(planes).tolist()))
        rows.append(row)
    labels = [(i, f"{name}-c", "color") for i, name in enumerate(COLOURS, 1)]
    labels += [(number, coco.cats[key]["name"], "object") for key, number in numbers.items()]
    table = [(number, name, f"{home}({seen[number]})") for number, name, home in labels]
    _write_table(root / "label.csv", ("number", "name", "category"), table)
    _write_table(root / "category.csv", ("name",), [("color",), ("object",)])
    # Last, as it makes a data set of the folder.
    _write_table(root / "index.csv", tuple(rows[0]), [tuple(row.values()) for row in rows])
    return len(rows)


def _read_image(path: Path, record: dict[str, Any]) -> np.ndarray:
    if Path(record["file_name"]).is_absolute() or ".." in Path(record["file_name"]).parts:
        raise DataError(f"The annotations name {path}, which is not in the folder of the images.")
    image = cv2.imread(str(path))
    if image is None:
        raise DataError(f"The image {path} does not exist or cannot be decoded.")
    if image.shape[:2] != (record["height"], record["width"]):
        raise DataError(f"The image {path} has another size than its annotations say.")
    return image


def _object_maps(
    coco: Any, image: int, numbers: dict[int, int], size: tuple[int, int]
) -> list[np.ndarray]:
    """Label maps of the objects in an image: as many as it takes where categories overlap."""
    maps: list[np.ndarray] = []
    for annotation in coco.imgToAnns[image]:
        if annotation["category_id"] not in numbers:
            continue  # as in MMDetection: it has no name
        mask = coco.annToMask(annotation)
        mask = cv2.resize(mask, size[::-1], interpolation=cv2.INTER_NEAREST).astype(bool)
        number = numbers[annotation["category_id"]]
        for plane in maps:
            if np.isin(plane[mask], (0, number)).all():
                break
        else:
            maps.append(plane := np.zeros(size, np.int64))
        plane[mask] = number
    return maps


def _read_coco(path: str) -> Any:
    try:
        from pycocotools.coco import COCO
    except ImportError as error:
        raise UsageError("COCO's masks need pycocotools, which comes with MMDetection.") from error
    if not Path(path).is_file():
        raise MissingFileError(f"The annotations {path} do not exist.")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO(path)
        masked = all(annotation.get("segmentation") for annotation in coco.anns.values())
    except (OSError, ValueError, KeyError, TypeError, AssertionError, AttributeError) as error:
        raise UsageError(f"The annotations {path} are not COCO instances: {error!r}.") from error
    if not (masked and coco.anns and coco.imgs and coco.cats):
        raise UsageError(f"The annotations {path} are not COCO instances with masks.")
    return coco


def _write_map(path: Path, labels: np.ndarray) -> None:
    green, red = np.divmod(labels, 256)
    write_png(path, np.stack([red, green, np.zeros_like(red)], -1).astype(np.uint8))


def _write_table(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *rows])
