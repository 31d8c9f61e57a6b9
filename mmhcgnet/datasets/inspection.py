"""What can be wrong with images and annotations: pure functions that return what they find.

``tools/misc/check_data.py`` goes through all of it; the start of a run, in
``mmhcgnet/engine/data_checks.py``, through what needs no image to be opened.
"""

from __future__ import annotations

import difflib
import gc
import io
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

import cv2
import numpy as np
from PIL import Image

EXAMPLES = 5
IMAGE_KEYS = ("id", "file_name", "height", "width")
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")
# Stands for polygons that are not read.
_UNREAD = [[0]]


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


# Images


def inspect_images(
    items: Sequence[tuple[str, tuple[int, int] | None]], workers: int = 0
) -> Iterator[list[Finding]]:
    """Inspect many images, in their order.

    Args:
        items: The arguments of :func:`inspect_image` for each.
        workers: Processes that decode; with 0 this one does.

    Raises:
        RuntimeError: If an image crashes a process.
    """
    if workers == 0:
        yield from map(_inspect_item, items)
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
        yield from pool.map(_inspect_item, items, chunksize=16)


def _inspect_item(item: tuple[str, tuple[int, int] | None]) -> list[Finding]:
    return inspect_image(*item)


def _start_worker() -> None:
    cv2.setNumThreads(0)
    # The decoders' own complaints, which name no file.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def inspect_image(path: str, size: tuple[int, int] | None = None) -> list[Finding]:
    """Find what is wrong with an image.

    It is decoded twice: by OpenCV, as training does, and by Pillow, which notices that a file ends
    early, where OpenCV leaves the rest of the picture grey.

    Args:
        path: A file of this file system.
        size: Height and width in pixels that the annotations give it.
    """
    fault = inspect_file(path)
    if fault is not None:
        return [fault]
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return [_bad_file("unreadable image", f"{path} cannot be read ({error.strerror})")]
    damage, mode = _decode_strictly(content)
    try:
        # As IMREAD_COLOR, which training uses, but in the depth of the file.
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        image = cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        image = None
    if image is None:
        why = damage or "OpenCV does not read it"
        return [_bad_file("undecodable image", f"{path} is no image that can be read ({why})")]
    found = []
    if damage:
        found.append(_bad_file("damaged image", f"{path} is damaged or ends early ({damage})"))
    if mode == "CMYK":
        found.append(
            Finding(
                "CMYK image",
                [f"{path} is in CMYK, whose colours are only roughly converted"],
                "convert it to RGB",
                harmless=True,
            )
        )
    if image.dtype != np.uint8:
        found.append(
            Finding(
                "image of more than 8 bits",
                [f"{path} holds {image.dtype} values, which are read as 8 bits"],
                "convert it with the scale that you want",
                harmless=True,
            )
        )
    if size is not None and image.shape[:2] != tuple(size):
        found.append(wrong_size(path, size, image.shape))
    return found


def wrong_size(path: str, size: Sequence[int], shape: Sequence[int]) -> Finding:
    """The fault of an image.

    Args:
        path: Its file.
        size: Height and width in pixels as they are annotated.
        shape: Those that it has; further entries do not matter.
    """
    told = f"is {shape[1]} wide and {shape[0]} high where its annotations say {size[1]} and"
    return Finding(
        "image of another size",
        [f"{path} {told} {size[0]}"],
        "replace the image, or mend its width, height, boxes and masks",
    )


def inspect_file(path: str) -> Finding | None:
    """Find what keeps an image from being read, without reading it."""
    try:
        status = os.stat(path)
    except FileNotFoundError:
        text = "is a link to what does not exist" if os.path.islink(path) else "does not exist"
        return _bad_file("missing image", f"{path} {text}")
    except OSError as error:
        return _bad_file("unreadable image", f"{path} cannot be read ({error.strerror})")
    except ValueError as error:
        return _bad_file("unreadable image", f"{path!r} is no name of a file ({error})")
    if not stat.S_ISREG(status.st_mode):
        text = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        return _bad_file("image that is no file", f"{path} is {text} and no image")
    if status.st_size == 0:
        return _bad_file("empty image", f"{path} is empty (0 bytes)")
    return None


def _bad_file(kind: str, example: str) -> Finding:
    return Finding(kind, [example], "put a good image there or take it out of the annotations")


def _decode_strictly(content: bytes) -> tuple[str, str]:
    """What Pillow says against an image, or nothing, and the image's mode."""
    mode = ""
    try:
        with Image.open(io.BytesIO(content)) as image:
            mode = image.mode
            image.load()
    except Image.DecompressionBombError:
        pass  # it is large, which does no harm
    except Image.UnidentifiedImageError:
        return "of no known format", mode
    except Exception as error:  # Pillow's plug-ins raise all kinds
        return " ".join(str(error).split()) or type(error).__name__, mode
    return "", mode


def inspect_listing(paths: Sequence[str]) -> list[Finding]:
    """Find images that are not there, from listings of their folders: no file is touched."""
    folders: dict[str, dict[str, bool]] = {}
    faults = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in folders:
            try:
                with os.scandir(folder or ".") as entries:
                    folders[folder] = {
                        entry.name: entry.is_file(follow_symlinks=False) for entry in entries
                    }
            except (OSError, ValueError):
                folders[folder] = {}
        # What is no plain file there, such as a link, may still be an image.
        if not folders[folder].get(name) and (fault := inspect_file(path)) is not None:
            faults.append(fault)
    return merge(faults)


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
        return found + _select(
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
    found += _select(
        "duplicate category", twice, lambda name: f"{file} has two categories named {name!r}",
        "rename or unite them",
    )  # fmt: skip
    if classes is None:
        return found
    absent = [name for name in classes if name not in names]
    rest = [name for name in map(str, names) if name not in classes]

    def describe(name: str) -> str:
        close = difflib.get_close_matches(name, rest, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else f", which has {_few(names)}"
        return f"{file} has no category {name!r} of the config's classes{hint}"

    found += _select(
        "unknown class", absent, describe, "mend metainfo.classes in the data set's config"
    )
    if not absent and not rest and list(classes) != names:
        found += _select(
            "classes in another order",
            [0],
            lambda _: f"{file} lists its categories in another order than the config its classes, "
            "and MMDetection numbers them as the file does",
            f"set metainfo.classes to {tuple(names)}" if len(names) < 20 else
            "order metainfo.classes as the file does",
        )  # fmt: skip
    found += _select(
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
        found += _select(
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
        return _select(
            f"{name} id that is no number", odd, lambda i: f"{file} has the {name} id {ids[i]!r}",
            "number them",
        )  # fmt: skip
    twice = [value for value, count in Counter(ids).items() if count > 1]
    return _select(
        f"duplicate {name} id", twice, lambda value: f"{file} gives the {name} id {value!r} twice",
        f"number the {name} entries anew",
    )  # fmt: skip


def _inspect_sizes(images: list[dict], file: str) -> list[Finding]:
    def is_wrong(image: dict) -> bool:
        sizes = image["height"], image["width"]
        return not all(isinstance(size, int | float) and 0 < size < 1e9 for size in sizes)

    return _select(
        "image size that is no size",
        [i for i, image in enumerate(images) if is_wrong(image)],
        lambda i: (
            f"{file} has an image ({_called(images[i], i)}) of width {images[i]['width']!r} "
            f"and height {images[i]['height']!r}"
        ),
        "write the sizes in pixels",
    ) + _select(
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
        found.extend(_select(kind, np.flatnonzero(mask), describe(text), remedy, harmless))

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
        found += _select(
            "no usable annotation", [0],
            lambda _: f"{file} holds no annotation that can be used{why}",
            "mend boxes and categories",
        )  # fmt: skip
    expected = classes if classes is not None else list(names.values())
    found += _select(
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
        *_select(
            "missing mask", missing, describe(lambda a: "without a mask ('segmentation')"),
            "complete it, or load and evaluate no masks",
        ),
        *_select(
            "mask that is no mask", unlike,
            describe(lambda a: "whose mask is neither polygons nor an RLE of the image's size"),
            "write polygons as [[x1, y1, x2, y2, x3, y3, ...], ...]",
        ),
        *_select(
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
        return folders, _select(
            "no class folders", [0], lambda _: f"{where} holds no folders of classes",
            f"sort the images ({suffixes}) into one folder for each class",
        )  # fmt: skip
    hidden = [name for name in folders if name.startswith(".")]
    if hidden:
        return folders, _select(
            "hidden folder", hidden,
            lambda name: f"{where} has the hidden folder {name!r}, which counts as a class",
            "remove it",
        )  # fmt: skip
    empty = [name for name in folders if not _holds_image(os.path.join(root, name), extensions)]
    if len(empty) == len(folders):
        return folders, _select(
            "no images", [0], lambda _: f"{where} holds no images in the folders of its classes",
            f"put images ({suffixes}) there",
        )  # fmt: skip
    found = _select(
        "class without images", empty,
        lambda name: f"{where} has no image in the folder of the class {name!r}",
        f"put images ({suffixes}) there, or remove the folder", harmless=True,
    )  # fmt: skip
    if classes is None:
        return folders, found
    if len(classes) != len(folders):
        found += _select(
            "another number of classes", [0],
            lambda _: f"{where} has {len(folders)} folders of classes ({_few(folders)}), and the "
            f"config names {len(classes)} classes",
            "make both the same",
        )  # fmt: skip
    elif set(classes) & set(folders) and list(classes) != folders:
        # Names that have nothing in common are fine: ImageNet's folders are numbers of WordNet.
        pairs = zip(classes, folders, strict=True)
        found += _select(
            "classes unlike folders", [pair for pair in pairs if pair[0] != pair[1]],
            lambda pair: f"{where} has the folder {pair[1]!r} where the config's classes have "
            f"{pair[0]!r}, in alphabetical order of the folders",
            "mend the spelling or order of the classes in the config",
        )  # fmt: skip
    return folders, found


def read_list(
    path: str, labelled: bool = True, num_classes: int | None = None
) -> tuple[list[str], list[Finding]]:
    """Read a list of images, with a label behind each.

    Args:
        path: A text file with ``NAME LABEL`` in each line.
        labelled: Whether there are labels.
        num_classes: How many classes the model tells apart.

    Returns:
        The names of the images, and what was found.
    """
    where = f"The annotation file {path}"
    try:
        with open(path, encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        told = getattr(error, "strerror", None) or "no UTF-8 text"
        return [], _select(
            "unreadable annotation file", [0], lambda _: f"{where} cannot be read ({told})",
            "write it anew",
        )  # fmt: skip
    if not any(line.strip() for line in lines):
        return [], _select(
            "empty annotation file", [0], lambda _: f"{where} names no image",
            "write a line with NAME LABEL for each image" if labelled else "list the images",
        )  # fmt: skip
    if not labelled:
        return lines, []
    pairs = [line.strip().rsplit(" ", 1) for line in lines]
    wrong = [i for i, pair in enumerate(pairs) if len(pair) != 2 or not _is_integer(pair[1])]
    found = _select(
        "line without a label", wrong,
        lambda i: f"{where} has in line {i + 1} {lines[i]!r} and no NAME LABEL",
        "end each line in the number of the class",
    )  # fmt: skip
    if wrong:
        return [], found
    labels = np.array([int(label) for _, label in pairs])
    limit = num_classes if num_classes is not None else np.inf
    found += _select(
        "unknown label", np.flatnonzero((labels < 0) | (labels >= limit)),
        lambda i: f"{where} has in line {i + 1} the label {labels[i]}, and the model's "
        f"{num_classes} classes count from 0",
        "mend the labels, or num_classes of the model's head",
    )  # fmt: skip
    if num_classes is not None:
        present = set(labels.tolist())
        found += _select(
            "class without images", [label for label in range(num_classes) if label not in present],
            lambda label: f"{where} has no image of class {label}",
            "add some, or lower the number of classes", harmless=True,
        )  # fmt: skip
    twice = [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]
    found += _select(
        "image listed twice", twice, lambda name: f"{where} names {name} more than once",
        "name it once", harmless=True,
    )  # fmt: skip
    return [name for name, _ in pairs], found


def list_images(root: str, extensions: Sequence[str]) -> list[str]:
    """All images under a folder that MMPretrain would read, sorted."""
    return sorted(_walk_images(root, extensions))


def _holds_image(folder: str, extensions: Sequence[str]) -> bool:
    return next(_walk_images(folder, extensions), None) is not None


def _walk_images(root: str, extensions: Sequence[str]) -> Iterator[str]:
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


# Shared


def _select(
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


def _few(names: Sequence) -> str:
    shown = ", ".join(map(repr, names[:6]))
    return shown + (", ..." if len(names) > 6 else "")
