"""COCO files: their layout, categories, ids, boxes and flags."""

from __future__ import annotations

import codecs
import difflib
import gc
import json
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import numpy as np

from .findings import EXTREME, Finding, few, is_extreme, select
from .masks import in_fractions, inspect_masks

IMAGE_KEYS = ("id", "file_name", "height", "width")
# The kinds of findings of files in which there is nothing to train on.
WITHOUT_OBJECTS = ("no annotations", "no usable annotation")
_DEEPEST = 100  # levels of what an evaluation copies
ANNOTATION_KEYS = ("id", "image_id", "category_id", "bbox", "area")
# How files begin that are not in UTF-8, or are so with a mark that JSON's reader refuses.
_MARKS = {
    codecs.BOM_UTF8: "UTF-8",
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}


@dataclass
class TrainedClasses:
    """The classes in the order of the training.

    Attributes:
        names: The classes; ``None`` if they are not known.
        file: The annotation file that the order is taken from, if not from the config.
    """

    names: Sequence[str] | None = None
    file: str | None = None


def read_coco(path: str, polygons: bool = False) -> tuple[dict, list[Finding]]:
    """Read an annotation file.

    Args:
        path: A file of this file system.
        polygons: Whether to keep the polygons, which are most of a large file.

    Returns:
        The content, empty if it is not a COCO file, and what is wrong with its outline.
    """

    def refuse(kind: str, text: str, remedy: str) -> tuple[dict, list[Finding]]:
        return {}, [Finding(kind, [f"The annotation file {path} {text}"], remedy)]

    again = "write or download it again"
    try:
        with open(path, "rb") as file:
            text = file.read()
        if not text.strip():
            return refuse("empty annotation file", "is empty", again)
        if encoding := other_encoding(text):
            return refuse(
                "annotation file that is not in UTF-8",
                f"is not JSON in plain UTF-8 ({encoding})",
                "save it as UTF-8 without a byte order mark",
            )
        with _no_garbage_collection():
            content = _parse(text, polygons)
    except OSError as error:
        return refuse("unreadable annotation file", f"cannot be read ({error.strerror})", again)
    except (ValueError, RecursionError) as error:
        told = "not UTF-8" if isinstance(error, UnicodeDecodeError) else str(error)
        return refuse("annotation file that is no JSON", f"is not JSON ({told})", again)

    layout = "bring it into the COCO layout, with the lists images, annotations and categories"
    if not isinstance(content, dict):
        text = f"is a JSON {type(content).__name__}, not a COCO file"
        return refuse("no COCO layout", text, layout)
    for key in ("images", "categories", "annotations"):
        entries = content.get(key)
        if entries is None and key == "annotations":
            content[key] = []  # of a test set whose labels are kept back
        elif entries is None:
            return refuse("no COCO layout", f"has no {key!r}", layout)
        elif not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            return refuse("no COCO layout", f"has {key!r} that is not a list of objects", layout)
    if not content["images"]:
        return refuse("no images", "names no image", "list the images, or name another file")
    return content, []


def other_encoding(text: bytes) -> str | None:
    """Say so if bytes are in UTF-16 or UTF-32, or in UTF-8 with a byte order mark."""
    for mark, encoding in _MARKS.items():
        if text.startswith(mark):
            return f"it begins with the byte order mark of {encoding}"
    # Of JSON, the first characters are in ASCII.
    return "it is in UTF-16 or UTF-32" if b"\0" in text[:4] else None


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
        if (
            end < 100
            or _begins_in_fractions(tail)
            or any(tail.find(word, 0, end) >= 0 for word in (b'"', *odd))
        ):
            return tail
        return b"0" + tail[end:]

    for opening in (b'"segmentation": [[', b'"segmentation":[['):
        head, *tails = text.split(opening)
        text = opening.join([head, *map(shorten, tails)])
    return text


def _begins_in_fractions(numbers: bytes) -> bool:
    # Of most polygons the first number is larger, which saves the rest.
    if not numbers.startswith((b"0.", b"1.", b"0,", b"1,")):
        return False
    with suppress(ValueError):
        return in_fractions([float(number) for number in numbers[:200].split(b",")[:4]])
    return False


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
    trained: bool = True,
    order: TrainedClasses | None = None,
    unique: bool = True,
) -> list[Finding]:
    """Find what is wrong with annotations.

    Args:
        content: What :func:`read_coco` returned.
        path: Its file, to be named.
        classes: The config's classes.
        masks: Whether masks are loaded or evaluated.
        evaluated: Whether the file is the truth of an evaluation.
        labelled: Whether there have to be annotations.
        trained: Whether a model is trained on it.
        order: The classes that the model is trained on.
        unique: Whether an annotation has to have an id of its own.
    """
    file = f"The annotation file {path}"
    images, annotations = content["images"], content["annotations"]
    # Where there is nothing to number, categories may be missing or in any order.
    numbered = classes if annotations or evaluated or not trained else None
    found = _inspect_categories(content["categories"], file, numbered, order or TrainedClasses())
    for entries, keys, name in (
        (images, IMAGE_KEYS, "image"),
        (annotations, (*ANNOTATION_KEYS, *(["iscrowd"] if evaluated else [])), "annotation"),
    ):
        found += _inspect_keys(entries, keys, name, file)
    if any(not finding.harmless for finding in found):
        return found  # the rest asks these keys
    found += _inspect_ids(images, "image", file)
    found += _inspect_ids(annotations, "annotation", file, unique)
    found += _inspect_images(images, file)
    if any(not finding.harmless for finding in found):
        return found
    if not annotations and not (labelled or evaluated):
        return found
    if not annotations:
        text, remedy = f"{file} holds no annotation", "annotate the images, or name another file"
        return [*found, Finding("no annotations", [text], remedy, harmless=not labelled)]
    if evaluated:
        found += _inspect_evaluated_ids(images, annotations, file)
        # What pycocotools copies by recursion.
        copied = [key for key in ("info", "categories") if _depth(content.get(key)) > _DEEPEST]
        found += select(
            "nesting",
            copied,
            lambda key: f"{file} nests {key} more than {_DEEPEST} deep",
            "take out what is nested there",
        )
    return found + _inspect_annotations(content, file, classes, masks, evaluated, trained)


def inspect_references(content: dict, path: str) -> list[Finding]:
    """Find what is wrong with the ids by which annotations name their image and category.

    Args:
        content: What :func:`read_coco` returned.
        path: Its file, to be named.
    """
    file = f"The annotation file {path}"
    images, categories = content["images"], content["categories"]
    annotations = content["annotations"]
    found = _inspect_keys(images, ("id",), "image", file)
    found += _inspect_keys(categories, ("id", "name"), "category", file)
    found += _inspect_keys(annotations, ("image_id", "category_id"), "annotation", file)
    if found:
        return found
    found = _inspect_ids(images, "image", file) + _inspect_ids(categories, "category", file)
    if found := found or _inspect_types(images, file):
        return found
    for name, entries in (("image", images), ("category", categories)):
        rows = {entry["id"]: row for row, entry in enumerate(entries)}
        _, other = _look_up(rows, [entry[f"{name}_id"] for entry in annotations])
        kind = f"{name} id of another type"
        text, remedy, harmless = _RULES[kind]

        def describe(i: int, text: str = text) -> str:
            told = text.format_map(annotations[i])
            return f"{file} has an annotation (the {i + 1}th in the list) {told}"

        found += select(kind, np.flatnonzero(other), describe, remedy, harmless)
    return found


def _depth(value: object) -> int:
    """How deep lists and dicts are nested."""
    depth, level = 0, [value]
    while level := [part for part in level if isinstance(part, dict | list)]:
        depth += 1
        level = [
            child for part in level for child in (part.values() if isinstance(part, dict) else part)
        ]
    return depth


def as_instances(content: dict) -> dict:
    """Bring a panoptic file into the layout of instances, a segment of an image being one."""
    annotations = [
        dict(segment, image_id=entry.get("image_id"))
        for entry in content["annotations"]
        for segment in entry.get("segments_info") or []
    ]
    return dict(content, annotations=annotations)


def _inspect_categories(
    categories: list[dict], file: str, classes: Sequence[str] | None, order: TrainedClasses
) -> list[Finding]:
    found = _inspect_keys(categories, ("id", "name"), "category", file)
    if found:
        return found
    found = _inspect_ids(categories, "category", file)
    names = [category["name"] for category in categories]
    twice = [name for name, count in Counter(map(str, names)).items() if count > 1]
    found += select(
        "duplicate category",
        twice,
        lambda name: f"{file} has two categories named {name!r}",
        "rename or unite them",
    )
    if classes is None:
        return found
    absent, rest = _others(classes, names), _others(names, classes)

    def describe(name: object) -> str:
        # Also where one is a number and the other the string of its digits.
        close = difflib.get_close_matches(str(name), map(str, rest), n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else f", which has {few(names)}"
        kind = "" if isinstance(name, str) else f", of which {name!r} is not even a string"
        return f"{file} has no category {name!r} of the config's classes{kind}{hint}"

    found += select(
        "unknown class", absent, describe, "fix metainfo.classes in the data set's config"
    )
    if not absent:
        found += _inspect_order(names, file, classes, order)
    found += select(
        "category left out",
        rest,
        lambda name: f"{file} has the category {name!r}, which is not one of the config's classes",
        "add it to metainfo.classes if it is not left out on purpose",
        harmless=True,
    )
    return found


def _others(names: Sequence, known: Sequence) -> list:
    """Those names that are not known; a file's may be lists."""
    known = {name for name in known if isinstance(name, Hashable)}
    return [name for name in names if not isinstance(name, Hashable) or name not in known]


def _inspect_order(
    names: list, file: str, classes: Sequence[str], trained: TrainedClasses
) -> list[Finding]:
    """Compare the order of a file's categories, by which MMDetection numbers the classes."""
    given = set(classes)
    order = [name for name in names if isinstance(name, Hashable) and name in given]
    moved = moved_classes(order, trained.names or ())
    # Where all data sets name the classes in one order, either this or the files' can be changed.
    if moved and (trained.file or list(classes) != list(trained.names)):
        return select(
            "classes in another order than in training",
            moved,
            lambda name: (
                f"{file} lists its categories in another order than the model's classes are "
                f"trained in: {name!r} is class {order.index(name)} here and class "
                f"{list(trained.names).index(name)} in "
                f"{trained.file or 'training'}, and MMDetection numbers classes as the file does"
            ),
            f"reorder the categories in this file as {_told(trained.names)}, and "
            "metainfo.classes with them",
        )
    if list(classes) == order:
        return []
    text = (
        f"{file} lists its categories in another order than the config its classes, and "
        "MMDetection numbers them as the file does"
    )
    remedy = (
        f"set metainfo.classes to {_told(order)} in all data sets, for training and evaluation, "
        "or reorder the categories in the file"
    )
    return [Finding("classes in another order", [text], remedy)]


def moved_classes(classes: Sequence[str], trained_classes: Sequence[str]) -> list[str]:
    """Name the classes that have another number than in training."""
    trained: dict[str, set[int]] = {}
    for i, name in enumerate(trained_classes):
        trained.setdefault(name, set()).add(i)  # two of ImageNet's are called crane
    return [name for i, name in enumerate(classes) if i not in trained.get(name, {i})]


def _told(names: Sequence[str]) -> str:
    return str(tuple(names)) if len(names) < 20 else "the other ones are"


def _inspect_keys(entries: list[dict], keys: Sequence[str], name: str, file: str) -> list[Finding]:
    wanted = set(keys)
    found = []
    lacking = [i for i, entry in enumerate(entries) if not wanted <= entry.keys()]
    article = "a" if name == "category" else "an"

    def called(i: int) -> str:
        return f"id {entries[i]['id']}" if "id" in entries[i] else f"the {i + 1}th in the list"

    for key in keys if lacking else ():
        without = [i for i in lacking if key not in entries[i]]
        found += select(
            f"{name} without {key}",
            without,
            lambda i, key=key: f"{file} has {article} {name} ({called(i)}) without {key!r}",
            f"give each {name} a {key!r}",
        )
    return found


def _inspect_ids(entries: list[dict], name: str, file: str, unique: bool = True) -> list[Finding]:
    ids = [entry["id"] for entry in entries]
    odd = [id_ for id_ in ids if isinstance(id_, bool) or not isinstance(id_, int | str | float)]
    if odd:
        kind = f"{name} id that is no number"
        return select(kind, odd, lambda id_: f"{file} has the {name} id {id_!r}", "number them")
    if not unique or len(set(ids)) == len(ids):
        return []
    twice = [value for value, count in Counter(ids).items() if count > 1]
    return select(
        f"duplicate {name} id",
        twice,
        lambda value: f"{file} gives the {name} id {value!r} twice",
        f"number the {name} entries again",
    )


def _inspect_types(images: list[dict], file: str) -> list[Finding]:
    numbers, strings = (
        [image["id"] for image in images if isinstance(image["id"], str) is kind]
        for kind in (False, True)
    )
    return select(
        "image ids of two types",
        strings if numbers else [],
        lambda id_: f"{file} has the string {id_!r} for an image id and the number {numbers[0]}",
        "number all images, in the annotations' image_id, too",
    )


def _inspect_evaluated_ids(images: list[dict], annotations: list[dict], file: str) -> list[Finding]:
    """Find ids that pycocotools takes for something else."""
    found = _inspect_types(images, file)
    ids = [entry["id"] for entry in annotations]
    return found + select(
        "annotation id below 1",
        [id_ for id_ in ids if isinstance(id_, str) or id_ < 1],
        lambda id_: f"{file} has the annotation id {id_!r}, and pycocotools counts from 1",
        "number the annotations from 1, or let them be numbered for the evaluation as they are now",
        harmless=True,
    )


def _inspect_images(images: list[dict], file: str) -> list[Finding]:
    def is_wrong(image: dict) -> bool:
        sizes = image["height"], image["width"]
        return not all(isinstance(size, int | float) and 0 < size < 1e9 for size in sizes)

    def describe(image: dict) -> str:
        size = f"width {image['width']!r} and height {image['height']!r}"
        return f"{file} has an image (id {image['id']}) of {size}"

    wrong = [image for image in images if is_wrong(image)]
    found = select("image size that is no size", wrong, describe, "write the sizes in pixels")
    if not found:
        extreme = [image for image in images if is_extreme(image["width"], image["height"])]
        found = select("image of extreme size", extreme, describe, EXTREME, harmless=True)
    names = [image["file_name"] for image in images]
    unnamed = [
        (image["id"], name)
        for image, name in zip(images, names, strict=True)
        if not (isinstance(name, str) and name) or "\0" in name
    ]
    found += select(
        "image without a name",
        unnamed,
        lambda pair: f"{file} has an image (id {pair[0]}) whose file_name is {pair[1]!r}",
        "name its file",
    )
    if unnamed or len(set(names)) == len(names):
        return found
    twice = [name for name, count in Counter(names).items() if count > 1]
    return found + select(
        "file under two image ids",
        twice,
        lambda name: (
            f"{file} lists the file {name} under the image ids "
            f"{few([image['id'] for image in images if image['file_name'] == name])}, so that "
            "the objects of one count as false in the other"
        ),
        "list each file once and move its annotations there",
        harmless=True,
    )


_LEFT_OUT = "fix it, or let runs leave it out as they do now"
# kind: (what is said of the annotation, the remedy, whether a run copes)
_RULES = {
    "box that is no box": (
        "whose box {bbox} or area {area!r} is not of finite numbers",
        "write boxes as [x, y, width, height] in pixels",
        False,
    ),
    "flag that is no number": (
        "whose iscrowd is {iscrowd!r} and ignore {ignore!r}: any string counts as true, and null "
        "ends an evaluation",
        "write 0 or 1",
        False,
    ),
    "category id of another type": (
        "whose category_id is {category_id!r}, while the id of that category is not of this type",
        "write both as numbers",
        False,
    ),
    "image id of another type": (
        "whose image_id is {image_id!r}, while the id of that image is not of this type",
        "write both as numbers",
        False,
    ),
    "unknown category": (
        "of the category {category_id!r}, which is not one of its categories",
        "fix category_id or complete the categories",
        False,
    ),
    "unknown image": ("of an image that it does not list", _LEFT_OUT, True),
    "box without extent": ("whose box {bbox} has no positive width and height", _LEFT_OUT, True),
    "box smaller than a pixel": (
        "whose box {bbox} or area {area} is smaller than a pixel",
        _LEFT_OUT,
        True,
    ),
    "box outside its image": ("whose box {bbox} is outside the image", _LEFT_OUT, True),
    "box beyond its image": (
        "whose box {bbox} reaches out of the image",
        "fix it (boxes are [x, y, width, height] in pixels of the image as it is listed)",
        True,
    ),
    "crowd": (
        "of a crowd (iscrowd), on which nothing is trained",
        "set iscrowd to 0 if it is a single object",
        True,
    ),
    "ignored object": (
        "to be ignored (ignore), on which nothing is trained",
        "set ignore to 0 if it is to be trained on",
        True,
    ),
}


def _inspect_annotations(
    content: dict,
    file: str,
    classes: Sequence[str] | None,
    masks: bool,
    evaluated: bool,
    trained: bool,
) -> list[Finding]:
    images, annotations = content["images"], content["annotations"]
    names = {category["id"]: category["name"] for category in content["categories"]}

    def describe(i: int, text: str) -> str:
        entry = dict(iscrowd=0, ignore=0) | annotations[i]
        text = text.format_map(entry)
        return f"{file} has an annotation (id {entry['id']}, image {entry['image_id']}) {text}"

    boxes = _numbers([entry["bbox"] for entry in annotations], 4)
    areas = _numbers([[entry["area"]] for entry in annotations], 1)[:, 0]
    rows = {image["id"]: row for row, image in enumerate(images)}
    row, other_image = _look_up(rows, [entry["image_id"] for entry in annotations])
    labels = {id_: label for label, id_ in enumerate(names)}
    label, other_category = _look_up(labels, [entry["category_id"] for entry in annotations])
    crowd, odd_crowd = _flags(annotations, "iscrowd", null=not evaluated)
    ignored, odd_ignored = _flags(annotations, "ignore", null=True)
    known, here = label >= 0, row >= 0
    sizes = np.array([(image["width"], image["height"]) for image in images], float)[row]

    finite = np.isfinite(boxes).all(1) & np.isfinite(areas)
    with np.errstate(invalid="ignore"):
        first, extent = boxes[:, :2], boxes[:, 2:]
        last = first + extent
        positive = (extent > 0).all(1)
        small = positive & (extent < 1).any(1)
        tiny = positive & ((extent < 1).any(1) | (areas <= 0))
        overlap = np.minimum(last, sizes) - np.maximum(first, 0)
        outside = (overlap <= 0).any(1) & positive
        beyond = ((first < -1) | (last > sizes + 1)).any(1) & positive & ~outside
    wanted = np.array([classes is None or name in classes for name in names.values()], bool)
    evaluable = finite & here & known & wanted[label]
    kept = evaluable & positive & ~tiny & ~outside & ~ignored  # by MMDetection's data set
    usable = (kept if trained else evaluable & positive) & ~crowd
    faults = {
        "box that is no box": ~finite,
        "flag that is no number": odd_crowd | (odd_ignored & trained),
        "category id of another type": other_category,
        "image id of another type": other_image,
        "unknown category": ~known & ~other_category,
        "unknown image": ~here & ~other_image,
        "box without extent": finite & ~positive,
        # An evaluation takes the area for the object's size class alone.
        "box smaller than a pixel": finite & (tiny if trained else small),
        "box outside its image": finite & here & outside,
        "box beyond its image": finite & here & beyond,
        "crowd": crowd & ~odd_crowd & trained,
        "ignored object": ignored & ~odd_ignored & trained,
    }
    found = []
    for kind, mask in faults.items():
        text, remedy, harmless = _RULES[kind]
        places = np.flatnonzero(mask)
        found += select(kind, places, lambda i, text=text: describe(i, text), remedy, harmless)
    if masks:
        # pycocotools reads the masks of all objects that it evaluates, whatever their boxes.
        checked = np.flatnonzero(evaluable if evaluated else kept).tolist()
        found += inspect_masks(annotations, checked, sizes, boxes, describe, evaluated)
    if not (trained or evaluated):
        return found
    if not usable.any() and not any(not finding.harmless for finding in found):
        cause = max(found, key=lambda finding: finding.count, default=None)
        why = f"; {cause.examples[0]}" if cause else ""
        remedy = cause.remedy if cause else "annotate objects of the config's classes"
        remedy = remedy.replace(_LEFT_OUT, "fix them, or take other annotations")
        text = f"{file} holds no annotation that can be used{why}"
        found.append(Finding("no usable annotation", [text], remedy))
    totals = np.bincount(label[usable], minlength=len(names))
    counts = dict(zip(names.values(), totals, strict=True))
    expected = classes if classes is not None else list(names.values())
    return found + select(
        "class without objects",
        [name for name in expected if not counts.get(name)],
        lambda name: f"{file} has no object of the class {name!r}",
        "annotate some, or take it out of the classes",
        harmless=True,
    )


def _numbers(values: list, width: int) -> np.ndarray:
    """``(len(values), width)`` as float64; NaN for rows that are not numbers of that width."""
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


def _flags(entries: list[dict], key: str, null: bool) -> tuple[np.ndarray, np.ndarray]:
    """Which entries have a flag set, and which a flag that is not a number.

    Args:
        entries: The annotations.
        key: The flag.
        null: Whether ``None`` stands for 0.
    """
    values = [entry.get(key, 0) for entry in entries]
    kinds = (int, float, bool, type(None)) if null else (int, float, bool)
    odd = np.array([not isinstance(value, kinds) for value in values], bool)
    return np.array([bool(value) for value in values], bool), odd


def _look_up(table: dict, keys: list) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of ids, -1 for none, and which are of another type than any that is listed."""
    try:
        found = np.array([table.get(key, -1) for key in keys])
    except TypeError:  # a list or the like for a key
        found = np.array([table.get(key, -1) if isinstance(key, Hashable) else -1 for key in keys])
    strings = {str(key) for key in table}
    other = np.zeros(len(keys), bool)
    for i in np.flatnonzero(found < 0):
        other[i] = not isinstance(keys[i], Hashable) or str(keys[i]) in strings
    return found, other
