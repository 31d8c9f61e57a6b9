"""What can be wrong with images and annotations: pure functions that return what they find.

``tools/misc/check_data.py`` goes through all of it; the start of a run, in
``mmhcgnet/engine/data_checks.py``, through what needs no image to be opened.
"""

from __future__ import annotations

import difflib
import gc
import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress

import numpy as np

from mmhcgnet.datasets.checks.findings import Finding, few, select

IMAGE_KEYS = ("id", "file_name", "height", "width")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")
# Stands for polygons that are not read.
_UNREAD = [[0]]


# Images


# COCO


def read_coco(path: str, polygons: bool = False) -> tuple[dict, list[Finding]]:
    """Read an annotation file.

    Args:
        path: A file of this file system.
        polygons: Whether to keep the polygons, which are most of a large file.

    Returns:
        The content, empty if it is no COCO file, and what is wrong with its outline.
    """

    def refuse(kind: str, text: str, remedy: str) -> tuple[dict, list[Finding]]:
        return {}, [Finding(kind, [f"The annotation file {path} {text}"], remedy)]

    again = "write or download it anew"
    try:
        with open(path, "rb") as file:
            text = file.read()
        if not text.strip():
            return refuse("empty annotation file", "is empty", again)
        with _no_garbage_collection():
            content = _parse(text, polygons)
    except OSError as error:
        return refuse("unreadable annotation file", f"cannot be read ({error.strerror})", again)
    except (ValueError, RecursionError) as error:
        told = "no UTF-8 text" if isinstance(error, UnicodeDecodeError) else str(error)
        return refuse("annotation file that is no JSON", f"is no JSON ({told})", again)

    layout = "bring it into the COCO layout, with the lists images, annotations and categories"
    if not isinstance(content, dict):
        text = f"is a JSON {type(content).__name__} and no COCO file"
        return refuse("no COCO layout", text, layout)
    for key in ("images", "categories", "annotations"):
        entries = content.get(key)
        if entries is None and key == "annotations":
            content[key] = []  # of a test set whose labels are kept back
        elif entries is None:
            return refuse("no COCO layout", f"has no {key!r}", layout)
        elif not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return refuse("no COCO layout", f"has {key!r} that are no list of objects", layout)
    if not content["images"]:
        return refuse("no images", "names no image", "list the images, or name another file")
    return content, []


def _parse(text: bytes, polygons: bool) -> object:
    if not polygons:
        # Most of a COCO file: without them it takes half the time and a third of the memory.
        with suppress(ValueError):
            return json.loads(_without_polygons(text))
    return json.loads(text)


def _without_polygons(text: bytes) -> bytes:
    """Leave out the polygons that are long and of nothing but numbers."""
    odd = [word for word in (b"null", b"NaN", b"Infinity") if word in text]

    def shorten(tail: bytes) -> bytes:
        end = tail.find(b"]]")
        if end < 100 or any(tail.find(word, 0, end) >= 0 for word in (b'"', *odd)):
            return tail
        return b"0" + tail[end:]

    for opening in (b'"segmentation": [[', b'"segmentation":[['):
        head, *tails = text.split(opening)
        text = opening.join([head, *map(shorten, tails)])
    return text


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Millions of new objects would be searched for cycles over and over."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@_no_garbage_collection()
def inspect_coco(
    content: dict,
    path: str,
    classes: Sequence[str] | None = None,
    masks: bool = False,
    evaluated: bool = False,
    labelled: bool = True,
) -> list[Finding]:
    """Find what is wrong with annotations.

    Args:
        content: What :func:`read_coco` returned.
        path: Its file, to be named.
        classes: The config's classes.
        masks: Whether masks are loaded or evaluated.
        evaluated: Whether the file is the truth of an evaluation.
        labelled: Whether there have to be annotations.
    """
    file = f"The annotation file {path}"
    images, annotations = content["images"], content["annotations"]
    found = _inspect_categories(content["categories"], file, classes)
    for entries, keys, name in (
        (images, IMAGE_KEYS, "image"),
        (annotations, (*ANNOTATION_KEYS, *(["iscrowd"] if evaluated else [])), "annotation"),
    ):
        found += _inspect_keys(entries, keys, name, file)
    if any(not finding.harmless for finding in found):
        return found  # the rest asks these keys
    found += _inspect_ids(images, "image", file) + _inspect_ids(annotations, "annotation", file)
    found += _inspect_sizes(images, file)
    if any(not finding.harmless for finding in found):
        return found
    if not annotations:
        return found + select(
            "no annotations", [0], lambda _: f"{file} holds no annotation",
            "annotate the images, or name another file", harmless=not labelled,
        )  # fmt: skip
    return found + _inspect_annotations(content, file, classes, masks, evaluated)


def _inspect_categories(
    categories: list[dict], file: str, classes: Sequence[str] | None
) -> list[Finding]:
    found = _inspect_keys(categories, ("id", "name"), "category", file)
    if found:
        return found
    found = _inspect_ids(categories, "category", file)
    names = [category["name"] for category in categories]
    twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
    found += select(
        "duplicate category", twice, lambda name: f"{file} has two categories named {name!r}",
        "rename or unite them",
    )  # fmt: skip
    if classes is None:
        return found
    absent = [name for name in classes if name not in names]
    rest = [name for name in map(str, names) if name not in classes]

    def describe(name: str) -> str:
        close = difflib.get_close_matches(name, rest, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else f", which has {few(names)}"
        return f"{file} has no category {name!r} of the config's classes{hint}"

    found += select(
        "unknown class", absent, describe, "mend metainfo.classes in the data set's config"
    )
    if not absent and not rest and list(classes) != names:
        found += select(
            "classes in another order",
            [0],
            lambda _: f"{file} lists its categories in another order than the config its classes, "
            "and MMDetection numbers them as the file does",
            f"set metainfo.classes to {tuple(names)}" if len(names) < 20 else
            "order metainfo.classes as the file does",
        )  # fmt: skip
    found += select(
        "category left out", rest,
        lambda name: f"{file} has the category {name!r}, which is none of the config's classes",
        "add it to metainfo.classes if it is not left out on purpose", harmless=True,
    )  # fmt: skip
    return found


def _inspect_keys(entries: list[dict], keys: Sequence[str], name: str, file: str) -> list[Finding]:
    wanted = set(keys)
    found = []
    lacking = [i for i, entry in enumerate(entries) if not wanted <= entry.keys()]
    for key in keys if lacking else ():
        without = [i for i in lacking if key not in entries[i]]
        found += select(
            f"{name} without {key}",
            without,
            lambda i, key=key: (
                f"{file} has an {name}".replace("an category", "a category")
                + f" ({_called(entries[i], i)}) without {key!r}"
            ),
            f"give each {name} a {key!r}",
        )
    return found


def _inspect_ids(entries: list[dict], name: str, file: str) -> list[Finding]:
    ids = [entry["id"] for entry in entries]
    try:
        if len(set(ids)) == len(ids):
            return []
    except TypeError:
        odd = [i for i, value in enumerate(ids) if not isinstance(value, int | str)]
        return select(
            f"{name} id that is no number", odd, lambda i: f"{file} has the {name} id {ids[i]!r}",
            "number them",
        )  # fmt: skip
    twice = [value for value, count in Counter(ids).items() if count > 1]
    return select(
        f"duplicate {name} id", twice, lambda value: f"{file} gives the {name} id {value!r} twice",
        f"number the {name} entries anew",
    )  # fmt: skip


def _inspect_sizes(images: list[dict], file: str) -> list[Finding]:
    def is_wrong(image: dict) -> bool:
        sizes = image["height"], image["width"]
        return not all(isinstance(size, int | float) and 0 < size < 1e9 for size in sizes)

    return select(
        "image size that is no size",
        [i for i, image in enumerate(images) if is_wrong(image)],
        lambda i: (
            f"{file} has an image ({_called(images[i], i)}) of width {images[i]['width']!r} "
            f"and height {images[i]['height']!r}"
        ),
        "write the sizes in pixels",
    ) + select(
        "image without a name",
        [i for i, image in enumerate(images) if not _is_name(image["file_name"])],
        lambda i: (
            f"{file} has an image ({_called(images[i], i)}) whose file_name is "
            f"{images[i]['file_name']!r}"
        ),
        "name its file",
    )


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name) and "\0" not in name


def _inspect_annotations(
    content: dict, file: str, classes: Sequence[str] | None, masks: bool, evaluated: bool
) -> list[Finding]:
    images, annotations = content["images"], content["annotations"]
    names = {category["id"]: category["name"] for category in content["categories"]}

    def describe(text: Callable[[dict], str]) -> Callable[[int], str]:
        def tell(i: int) -> str:
            entry = annotations[i]
            return (
                f"{file} has an annotation (id {entry['id']}, image {entry['image_id']}) "
                f"{text(entry)}"
            )

        return tell

    boxes = _numbers([entry["bbox"] for entry in annotations], 4)
    areas = _numbers([[entry["area"]] for entry in annotations], 1)[:, 0]
    rows = {image["id"]: row for row, image in enumerate(images)}
    row = np.array(_look_up(rows, [entry["image_id"] for entry in annotations], -1))
    labels = {id_: label for label, id_ in enumerate(names)}
    label = np.array(_look_up(labels, [entry["category_id"] for entry in annotations], -1))
    known = label >= 0
    sizes = np.array([(image["width"], image["height"]) for image in images], float)[row]

    finite = np.isfinite(boxes).all(1) & np.isfinite(areas)
    with np.errstate(invalid="ignore"):
        first, extent = boxes[:, :2], boxes[:, 2:]
        last = first + extent
        positive = (extent > 0).all(1)
        tiny = positive & ((extent < 1).any(1) | (areas <= 0))
        overlap = np.minimum(last, sizes) - np.maximum(first, 0)
        outside = (overlap <= 0).any(1) & positive
        beyond = ((first < -1) | (last > sizes + 1)).any(1) & positive & ~outside
    here = row >= 0
    wanted = np.array([classes is None or name in classes for name in names.values()], bool)
    usable = finite & positive & ~tiny & ~outside & here & known & wanted[label]

    left_out = "mend it, or let it be left out as it is now"
    found = []

    def add(kind, mask, text, remedy, harmless=False):
        found.extend(select(kind, np.flatnonzero(mask), describe(text), remedy, harmless))

    add(
        "box that is no box", ~finite, lambda a: f"whose box {a['bbox']} or area {a['area']!r} is "
        "not of finite numbers", "write boxes as [x, y, width, height] in pixels",
    )  # fmt: skip
    add(
        "unknown category", ~known, lambda a: f"of the category {a['category_id']!r}, which is "
        "none of its categories", "mend category_id or complete the categories",
    )  # fmt: skip
    add(
        "unknown image", ~here, lambda a: "of an image that it does not list", left_out,
        harmless=True,
    )  # fmt: skip
    add(
        "box without extent", finite & ~positive,
        lambda a: f"whose box {a['bbox']} has no positive width and height", left_out,
        harmless=True,
    )  # fmt: skip
    add(
        "box smaller than a pixel", finite & tiny,
        lambda a: f"whose box {a['bbox']} or area {a['area']} is smaller than a pixel", left_out,
        harmless=True,
    )  # fmt: skip
    add(
        "box outside its image", finite & here & outside,
        lambda a: f"whose box {a['bbox']} is outside the image", left_out, harmless=True,
    )  # fmt: skip
    add(
        "box beyond its image", finite & here & beyond,
        lambda a: f"whose box {a['bbox']} reaches out of the image",
        "mend it (boxes are [x, y, width, height] in pixels of the image as it is listed)",
        harmless=True,
    )  # fmt: skip
    if masks:
        found += _inspect_masks(annotations, usable, row, images, describe, evaluated)
    totals = np.bincount(label[usable], minlength=len(names))
    counts = dict(zip(names.values(), totals, strict=True))
    if not usable.any() and not any(not finding.harmless for finding in found):
        why = f"; {found[0].examples[0]}" if found else ""
        found += select(
            "no usable annotation", [0],
            lambda _: f"{file} holds no annotation that can be used{why}",
            "mend boxes and categories",
        )  # fmt: skip
    expected = classes if classes is not None else list(names.values())
    found += select(
        "class without objects", [name for name in expected if not counts.get(name)],
        lambda name: f"{file} has no object of the class {name!r}",
        "annotate some, or take it out of the classes", harmless=True,
    )  # fmt: skip
    return found


def _inspect_masks(
    annotations: list[dict],
    usable: np.ndarray,
    row: np.ndarray,
    images: list[dict],
    describe: Callable[[Callable[[dict], str]], Callable[[int], str]],
    evaluated: bool,
) -> list[Finding]:
    missing, empty, unlike = [], [], []
    for i in np.flatnonzero(usable).tolist():
        mask = annotations[i].get("segmentation")
        if mask == _UNREAD:
            continue
        if not mask:
            missing.append(i)
        elif isinstance(mask, dict):
            if not _is_rle(mask, images[row[i]]):
                unlike.append(i)
        elif not _are_polygons(mask):
            unlike.append(i)
        # pycocotools takes a first part of four numbers for a box.
        elif not any(len(part) >= 6 and len(part) % 2 == 0 for part in mask) or (
            evaluated and len(mask[0]) <= 4
        ):
            empty.append(i)
    return [
        *select(
            "missing mask", missing, describe(lambda a: "without a mask ('segmentation')"),
            "complete it, or load and evaluate no masks",
        ),
        *select(
            "mask that is no mask", unlike,
            describe(lambda a: "whose mask is neither polygons nor an RLE of the image's size"),
            "write polygons as [[x1, y1, x2, y2, x3, y3, ...], ...]",
        ),
        *select(
            "mask of less than three points", empty,
            describe(lambda a: "whose mask begins with less than three points"),
            "mend it, or let it be ignored in training as it is now", harmless=not evaluated,
        ),
    ]  # fmt: skip


def _is_rle(mask: dict, image: dict) -> bool:
    counts, size = mask.get("counts"), [image["height"], image["width"]]
    if isinstance(counts, list):
        numbers = all(type(count) is int and count >= 0 for count in counts)
        return mask.get("size") == size and numbers and sum(counts) == size[0] * size[1]
    return mask.get("size") == size and isinstance(counts, str) and bool(counts)


def _are_polygons(mask: object) -> bool:
    """Whether it is lists of numbers; those which are not finite would take all memory."""
    return isinstance(mask, list) and all(
        isinstance(part, list) and all(type(n) in (int, float) and abs(n) < 1e5 for n in part)
        for part in mask
    )


def _numbers(values: list, width: int) -> np.ndarray:
    """``(len(values), width)`` as float64; NaN for rows that are no numbers of that width."""
    try:
        array = np.array(values)
    except ValueError:  # rows of several lengths
        array = np.empty(0, object)
    if array.shape == (len(values), width) and array.dtype.kind in "iuf":
        return array.astype(np.float64)
    array = np.full((len(values), width), np.nan)
    for i, value in enumerate(values):
        if isinstance(value, list) and [type(n) in (int, float) for n in value] == [True] * width:
            array[i] = [n if abs(n) < 1e300 else np.inf for n in value]
    return array


def _look_up(table: dict, keys: list, default: int) -> list[int]:
    try:
        return [table.get(key, default) for key in keys]
    except TypeError:  # a list or the like for a key
        return [table.get(key, default) if isinstance(key, Hashable) else default for key in keys]


def _called(entry: dict, index: int) -> str:
    return f"id {entry['id']}" if "id" in entry else f"the {index + 1}th in the list"


# Classification


# Shared
