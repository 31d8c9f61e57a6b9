"""The built-in data set ``shapes``: generated images for detection and classification.

Five categories differ in outline only. What fills an object, the background and the clutter between
them is drawn by the same function from the same distribution, so colour and texture say nothing
about the category. Masks are the visible part of an object; about a third of the objects or more
are partly covered by others. The background is of two kinds: the ground, and the lines on it.

Every image has its own random stream, derived from ``(seed, task, split, index)``: image ``i``
is the same however many images are asked for, and train and val share nothing.
"""

import colorsys
import json
import math
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import cv2
import numpy as np

from .png import write_png

# Alphabetical, so that a class-folder reader (which sorts) gives the labels used here.
CATEGORIES = ("cross", "ellipse", "rectangle", "star", "triangle")
METAINFO = dict(
    classes=CATEGORIES,
    palette=[(230, 159, 0), (86, 180, 233), (0, 158, 115), (204, 121, 167), (213, 94, 0)],
)
# What is not an object: labels behind those of the categories in semantic maps.
BACKGROUNDS = ("ground", "line")
BACKGROUND_PALETTE = [(60, 60, 60), (240, 228, 66)]
SPLITS = ("train", "val")
RECORD = "shapes.json"
# Raised whenever the images of a given seed change, so that old sets are made again.
VERSION = 3

MIN_SIZE, MAX_SIZE = 64, 1024
MAX_OBJECTS = 6
# Square root of an object's area, as a fraction of the longer image side (a factor of 30 in area).
SCALE_RANGE = (0.11, 0.6)
MIN_VISIBLE = 0.5
MIN_PIXELS = 24
# Share of an object that has to lie inside the image.
MIN_INSIDE = 0.75
# How often a new object is laid over an earlier one; gives 30 to 40 % partly covered objects.
COVER_PROBABILITY = 0.47
# Euclidean RGB distance (channels in [0, 1]) that a fill keeps from what surrounds it.
MIN_CONTRAST = 0.5
SUPERSAMPLING = 4

Progress = Callable[[str, int, int], None]


@dataclass
class ShapeObject:
    """One object of a scene.

    Attributes:
        label: Index into ``CATEGORIES``.
        full: The object without anything in front of it, bool, ``(H, W)``.
        visible: What later objects leave of ``full``, bool, ``(H, W)``.
    """

    label: int
    full: np.ndarray
    visible: np.ndarray

    @property
    def occlusion(self) -> float:
        """Fraction of ``full`` that other objects hide."""
        return 1.0 - float(self.visible.sum()) / float(self.full.sum())


# Textures: one distribution for backgrounds, clutter and objects


def _draw_colours(rng: np.random.Generator) -> np.ndarray:
    """Return two related muted RGB colours in [0, 1], ``(2, 3)``."""
    first, second = (
        np.array(colorsys.hsv_to_rgb(rng.random(), 0.8 * rng.beta(2, 3), rng.uniform(0.12, 0.95)))
        for _ in range(2)
    )
    return np.stack([first, first + rng.uniform(0.05, 0.25) * (second - first)])


def _noise(rng: np.random.Generator, height: int, width: int, cell: float) -> np.ndarray:
    """Return smooth noise with zero mean and unit variance that varies over ``cell`` pixels."""
    grid = rng.standard_normal((math.ceil(height / cell) + 3, math.ceil(width / cell) + 3))
    scaled = cv2.resize(
        grid.astype(np.float32),
        (math.ceil(grid.shape[1] * cell), math.ceil(grid.shape[0] * cell)),
        interpolation=cv2.INTER_CUBIC,
    )
    top, left = rng.integers(0, math.ceil(2 * cell), 2)
    return scaled[top : top + height, left : left + width]


def _draw_field(rng: np.random.Generator, height: int, width: int, size: int) -> np.ndarray:
    """Return a random pattern in [0, 1], ``(height, width)``: noise, stripes, checks, spots, ramp.

    Lengths follow ``size`` and not the patch, so that a pattern does not give away what it fills.
    """
    kind = rng.integers(5)
    period = size * math.exp(rng.uniform(math.log(0.04), math.log(0.35)))
    if kind == 0:
        octaves = (period * 2.0**-i for i in range(3))
        field = sum(0.6**i * _noise(rng, height, width, max(c, 2)) for i, c in enumerate(octaves))
        return np.clip(0.5 + 0.3 * field, 0, 1)
    if kind == 1:
        return 1 / (1 + np.exp(-6 * (_noise(rng, height, width, period / 2) - 0.3)))
    angle, phase = rng.uniform(0, 2 * math.pi, 2)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    along = (math.cos(angle) * x + math.sin(angle) * y) / period
    across = (math.cos(angle) * y - math.sin(angle) * x) / period
    if kind == 2:
        bend = 0.1 * _noise(rng, height, width, size / 8)
        hardness = rng.uniform(1, 6)
        wave = np.sin(2 * math.pi * (along + bend) + phase)
        return 0.5 + 0.5 * np.tanh(hardness * wave) / math.tanh(hardness)
    if kind == 3:
        checks = np.sin(math.pi * along + phase) * np.sin(math.pi * across + phase)
        return 0.5 + 0.5 * np.tanh(8 * checks)
    # A triangle wave, much longer than a stripe: a ramp up or down in most patches.
    return np.abs((along / 6 + phase) % 2 - 1)


def _draw_texture(
    rng: np.random.Generator, height: int, width: int, size: int, colours: np.ndarray
) -> np.ndarray:
    """Return a patch ``(height, width, 3)``, float32 RGB, mixed from two colours."""
    field = _draw_field(rng, height, width, size)[..., None].astype(np.float32)
    first, second = colours.astype(np.float32)
    grain = rng.uniform(0, 0.05) * rng.standard_normal((height, width, 1), dtype=np.float32)
    return first + field * (second - first) + grain


# Outlines: the only thing that distinguishes the categories


def _rotate(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, sin], [-sin, cos]])


def _polar(radii: np.ndarray, angles: np.ndarray) -> np.ndarray:
    return np.stack([radii * np.cos(angles), radii * np.sin(angles)], axis=1)


def _fit_area(points: np.ndarray, area: float) -> np.ndarray:
    """Scale a polygon ``(V, 2)`` to an area in square pixels."""
    x, y = points.T
    now = 0.5 * abs(np.dot(x, np.roll(y, 1)) - np.dot(y, np.roll(x, 1)))
    return points * math.sqrt(area / now)


def _draw_outline(rng: np.random.Generator, label: int, area: float) -> np.ndarray:
    """Return a jittered polygon ``(V, 2)`` of the category around the origin.

    Stretch (up to 1.4), shear, perspective and rotation (up to 20 degrees either way) have one
    distribution for all categories, and so has the area.
    """
    name = CATEGORIES[label]
    if name == "ellipse":
        points = _polar(np.ones(48), np.arange(48) * 2 * math.pi / 48)
    elif name == "triangle":
        points = _polar(np.ones(3), np.arange(3) * 2 * math.pi / 3 - math.pi / 2)
    elif name == "rectangle":
        points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], dtype=float)
    elif name == "star":
        radii = np.tile([1.0, rng.uniform(0.38, 0.5)], 5)
        points = _polar(radii, np.arange(10) * math.pi / 5 - math.pi / 2)
    else:
        arm = rng.uniform(0.27, 0.4)
        quarter = np.array([[1, -arm], [1, arm], [arm, arm]])
        points = np.concatenate([_rotate(quarter, i * math.pi / 2) for i in range(4)])
    if name != "ellipse":
        points = points + rng.uniform(-0.03, 0.03, points.shape)
    points[:, 0] *= math.exp(rng.uniform(0, math.log(1.4)))
    points[:, 0] += rng.uniform(-0.1, 0.1) * points[:, 1]
    points = points / (1 + points @ rng.uniform(-0.05, 0.05, (2, 1)))
    return _fit_area(_rotate(points, rng.uniform(-math.pi, math.pi) / 9), area)


def _rasterise(points: np.ndarray, thickness: float | None = None) -> np.ndarray:
    """Return the coverage in [0, 1] of a polygon (or of a line of a thickness in pixels).

    The float32 patch is cropped to the figure; supersampling gives it soft edges.
    """
    margin = 1 + (thickness or 0) / 2
    low = np.floor(points.min(axis=0) - margin)
    width, height = np.ceil(points.max(axis=0) + margin - low).astype(int)
    fine = np.zeros((height * SUPERSAMPLING, width * SUPERSAMPLING), np.uint8)
    vertices = np.round((points - low) * SUPERSAMPLING).astype(np.int32)
    if thickness is None:
        cv2.fillPoly(fine, [vertices], 255)
    else:
        cv2.polylines(fine, [vertices], False, 255, max(1, round(thickness * SUPERSAMPLING)))
    return cv2.resize(fine, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


# Scenes


def _window(canvas: np.ndarray, patch: np.ndarray, top: int, left: int) -> tuple:
    """Return the slices of the canvas and of the patch where a patch at (top, left) meets it."""
    height, width = canvas.shape[:2]
    y0, y1 = max(top, 0), min(top + patch.shape[0], height)
    x0, x1 = max(left, 0), min(left + patch.shape[1], width)
    inside = slice(y0, max(y0, y1)), slice(x0, max(x0, x1))
    local = slice(y0 - top, max(y0, y1) - top), slice(x0 - left, max(x0, x1) - left)
    return inside, local


def _paint(
    rng: np.random.Generator, canvas: np.ndarray, alpha: np.ndarray, top: int, left: int, size: int
) -> None:
    """Fill a coverage patch on the canvas with a texture that stands out from what is around it."""
    inside, local = _window(canvas, alpha, top, left)
    alpha, below = alpha[local], canvas[inside]
    if alpha.size == 0:
        return
    solid = (alpha > 0).astype(np.uint8)
    rim = cv2.morphologyEx(solid, cv2.MORPH_GRADIENT, np.ones((5, 5), np.uint8)) > 0
    around = below[rim].mean(axis=0) if rim.any() else below.mean(axis=(0, 1))
    for _ in range(10):
        colours = _draw_colours(rng)
        if np.linalg.norm(colours.mean(axis=0) - around) >= MIN_CONTRAST:
            break
    texture = _draw_texture(rng, *alpha.shape, size, colours)
    below += alpha[..., None] * (texture - below)


def _draw_background(
    rng: np.random.Generator, height: int, width: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Draw a textured canvas with clutter that belongs to no category: bent lines.

    Returns:
        The canvas, float32, ``(H, W, 3)``, and where the lines are, bool, ``(H, W)``.
    """
    canvas = _draw_texture(rng, height, width, size, _draw_colours(rng))
    lines = np.zeros((height, width), bool)
    for _ in range(rng.integers(0, 4)):
        turns = np.cumsum(rng.normal(0, 0.25, 16)) + rng.uniform(0, 2 * math.pi)
        steps = size * rng.uniform(0.02, 0.06)
        points = np.cumsum(_polar(np.full(16, steps), turns), axis=0)
        alpha = _rasterise(points, thickness=size * rng.uniform(0.008, 0.03))
        top = int(rng.uniform(0, height) - alpha.shape[0] / 2)
        left = int(rng.uniform(0, width) - alpha.shape[1] / 2)
        _paint(rng, canvas, alpha, top, left, size)
        inside, local = _window(canvas, alpha, top, left)
        lines[inside] |= alpha[local] >= 0.5
    return canvas, lines


def _photograph(rng: np.random.Generator, canvas: np.ndarray) -> np.ndarray:
    """Add a lighting ramp, blur and sensor noise; return uint8 RGB."""
    height, width = canvas.shape[:2]
    y, x = np.linspace(-1, 1, height)[:, None], np.linspace(-1, 1, width)
    angle = rng.uniform(0, 2 * math.pi)
    light = 1 + rng.uniform(0, 0.25) * (math.cos(angle) * x + math.sin(angle) * y)
    image = canvas * light[..., None].astype(np.float32)
    image = cv2.GaussianBlur(image, (0, 0), rng.uniform(0.2, 0.8))
    image += rng.uniform(0, 0.03) * rng.standard_normal(image.shape, dtype=np.float32)
    return np.clip(np.round(255 * image), 0, 255).astype(np.uint8)


def _place(
    rng: np.random.Generator, solid: np.ndarray, owner: np.ndarray, full: np.ndarray
) -> tuple[int, int] | None:
    """Find room for an object, (top, left) of its patch, or None.

    Args:
        solid: The object's pixels, bool patch.
        owner: Index of the object visible at each pixel or -1, ``(H, W)``.
        full: Pixels of each object so far, covered or not, ``(objects,)``.
    """
    height, width = owner.shape
    pixels = solid.sum()
    visible = np.bincount(owner[owner >= 0], minlength=len(full))
    cover = len(full) > 0 and rng.random() < COVER_PROBABILITY
    for attempt in range(40):
        cover = cover and attempt < 20
        if cover:
            target = rng.integers(len(full))
            y, x = np.argwhere(owner == target).mean(axis=0)
            angle = rng.uniform(0, 2 * math.pi)
            distance = rng.uniform(0.2, 0.7) * (math.sqrt(pixels) + math.sqrt(full[target]))
            y, x = y + distance * math.sin(angle), x + distance * math.cos(angle)
        else:
            y, x = rng.uniform(0, height), rng.uniform(0, width)
        top, left = int(y - solid.shape[0] / 2), int(x - solid.shape[1] / 2)
        inside, local = _window(owner, solid, top, left)
        part = solid[local]
        if part.sum() < max(MIN_INSIDE * pixels, MIN_PIXELS):
            continue
        under = owner[inside][part]
        hidden = np.bincount(under[under >= 0], minlength=len(full))
        left_over = visible - hidden
        if np.any(left_over < np.maximum(MIN_VISIBLE * full, MIN_PIXELS)):
            continue
        share = hidden / np.maximum(full, 1)
        if share.max(initial=0) >= 0.1 if cover else share.max(initial=0) == 0:
            return top, left
    return None


def _generator(seed: int, task: int, split: str, index: int) -> np.random.Generator:
    key = (task, SPLITS.index(split), index)
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))


def _scene_size(rng: np.random.Generator, index: int, size: int) -> tuple[int, int]:
    if index % 4 != 3:
        return size, size
    short = round(size * rng.uniform(0.75, 0.95))
    return (short, size) if rng.random() < 0.5 else (size, short)


def draw_scene(
    seed: int, split: str, index: int, size: int = 128
) -> tuple[np.ndarray, list[ShapeObject]]:
    """Draw one image of the detection set.

    Of 20 consecutive images one is empty and five are not square (up to 4:3 or 3:4), so that
    small sets have them too.

    Args:
        seed: Seed of the whole set.
        split: "train" or "val".
        index: Number of the image in its split.
        size: Longer side in pixels.

    Returns:
        The RGB image, uint8, ``(H, W, 3)``, and its objects from back to front (0 to 6).
    """
    rng = _generator(seed, 0, split, index)
    height, width = _scene_size(rng, index, size)
    canvas, _ = _draw_background(rng, height, width, size)
    wanted = 0 if index % 20 == 10 else rng.integers(1, MAX_OBJECTS + 1)
    owner = np.full((height, width), -1)
    found: list[tuple[int, np.ndarray]] = []
    # More tries than objects: a large one does not always find room next to the others.
    for _ in range(4 * wanted):
        label = int(rng.integers(len(CATEGORIES)))
        area = (size * math.exp(rng.uniform(*np.log(SCALE_RANGE)))) ** 2
        alpha = _rasterise(_draw_outline(rng, label, area))
        solid = alpha >= 0.5
        place = _place(rng, solid, owner, np.array([mask.sum() for _, mask in found], dtype=int))
        if place is None:
            continue
        _paint(rng, canvas, alpha, *place, size)
        inside, local = _window(owner, solid, *place)
        mask = np.zeros((height, width), bool)
        mask[inside] = solid[local]
        owner[mask] = len(found)
        found.append((label, mask))
        if len(found) == wanted:
            break
    objects = [ShapeObject(label, mask, owner == i) for i, (label, mask) in enumerate(found)]
    return _photograph(rng, canvas), objects


def label_scene(
    objects: list[ShapeObject], seed: int, split: str, index: int, size: int = 128
) -> np.ndarray:
    """Label every pixel of a scene.

    Args:
        objects: Those that :func:`draw_scene` returned for the other arguments.
        seed: Seed of the whole set.
        split: "train" or "val".
        index: Number of the image in its split.
        size: Longer side in pixels.

    Returns:
        Indices into ``(*CATEGORIES, *BACKGROUNDS)``, uint8, ``(H, W)``.
    """
    rng = _generator(seed, 0, split, index)
    _, lines = _draw_background(rng, *_scene_size(rng, index, size), size)
    ground, line = range(len(CATEGORIES), len(CATEGORIES) + len(BACKGROUNDS))
    labels = np.where(lines, line, ground).astype(np.uint8)
    for item in objects:
        labels[item.visible] = item.label
    return labels


def draw_closeup(seed: int, split: str, index: int, size: int = 128) -> tuple[np.ndarray, int]:
    """Draw one image of the classification set: one large object near the middle.

    Args:
        seed: Seed of the whole set.
        split: "train" or "val".
        index: Number of the image in its split; categories take turns.
        size: Side of the square image in pixels.

    Returns:
        The RGB image, uint8, ``(size, size, 3)``, and the index of its category.
    """
    rng = _generator(seed, 1, split, index)
    label = index % len(CATEGORIES)
    canvas, _ = _draw_background(rng, size, size, size)
    alpha = _rasterise(_draw_outline(rng, label, (size * rng.uniform(0.2, 0.45)) ** 2))
    middle = (size - np.array(alpha.shape)) / 2 + size * rng.uniform(-0.12, 0.12, 2)
    _paint(rng, canvas, alpha, *(int(m) for m in middle), size)
    return _photograph(rng, canvas), label


# Writing


PANOPTIC_CATEGORIES = [
    dict(
        id=i,
        name=name,
        supercategory="shape" if name in CATEGORIES else "background",
        isthing=int(name in CATEGORIES),
        color=list(colour),
    )
    for i, (name, colour) in enumerate(
        zip((*CATEGORIES, *BACKGROUNDS), METAINFO["palette"] + BACKGROUND_PALETTE, strict=True),
        start=1,
    )
]


def _write_json(path: Path, content: dict) -> None:
    part = path.with_name(path.name + ".part")
    part.write_text(json.dumps(content) + "\n")
    os.replace(part, path)


def _record(seed: int, images: int, val_images: int, size: int, least: int) -> dict:
    """Check the parameters of a set and return what is noted of them next to it."""
    for name, value, low, high in (
        ("seed", seed, 0, 2**63 - 1),
        ("images", images, least, 10**6),
        ("val_images", val_images, least, 10**6),
        ("size", size, MIN_SIZE, MAX_SIZE),
    ):
        if not low <= value <= high:
            raise ValueError(f"{name} is {value}; it must be between {low} and {high}.")
    return dict(version=VERSION, seed=seed, images=images, val_images=val_images, size=size)


def _begin(out: Path, record: dict, folders: tuple[str, ...]) -> bool:
    """Make ``out`` ready for writing; return False if the same set is there, complete.

    The record stands in the folder, marked incomplete, from before the first image: whatever an
    interrupted run left is known as ours and made again, and nobody else's files are removed.
    """
    path = out / RECORD
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; choose another output folder.")
    found = None
    if path.is_file():
        with suppress(ValueError):
            found = json.loads(path.read_text())
    if isinstance(found, dict) and {"version", "seed", "complete"} <= found.keys():
        suffixes = [f.suffix for folder in folders for f in (out / folder).rglob("*.*")]
        pictures, tables = (3, 2) if "semantic" in folders else (1, "annotations" in folders)
        if (
            found == dict(record, complete=True)
            and suffixes.count(".png") >= pictures * (record["images"] + record["val_images"])
            and suffixes.count(".json") >= tables * len(SPLITS)
        ):
            return False
    else:
        for other in (RECORD, *folders):
            if (out / other).exists():
                raise ValueError(
                    f"{out / other} already exists and was not made by this generator; "
                    "remove it or choose another output folder."
                )
    out.mkdir(parents=True, exist_ok=True)
    _write_json(path, dict(record, complete=False))
    for folder in folders:
        if (out / folder).exists():
            shutil.rmtree(out / folder)
        (out / folder).mkdir()
    return True


def _annotate(annotation_id: int, image_id: int, item: ShapeObject) -> dict:
    # Here and not above: class folders can be made without pycocotools.
    from pycocotools import mask as coco_mask

    rle = coco_mask.encode(np.asfortranarray(item.visible, dtype=np.uint8))
    return dict(
        id=annotation_id,
        image_id=image_id,
        category_id=item.label + 1,
        segmentation=dict(size=list(item.visible.shape), counts=rle["counts"].decode("ascii")),
        bbox=[float(x) for x in coco_mask.toBbox(rle)],
        area=int(item.visible.sum()),
        iscrowd=0,
        occlusion=round(item.occlusion, 4),
    )


def write_detection(
    out: str | Path,
    seed: int = 0,
    images: int = 4200,
    val_images: int = 200,
    size: int = 128,
    progress: Progress | None = None,
    panoptic: bool = False,
) -> bool:
    """Write the COCO-format set: ``annotations/instances_{train,val}.json``, ``train/``, ``val/``.

    Masks are run-length encoded. Each annotation has a field beyond COCO's, ``occlusion``: the
    fraction of the object that other objects hide.

    With a label for every pixel, there are also ``annotations/panoptic_{train,val}.json`` with the
    folders ``annotations/panoptic_{train,val}/``, as in COCO, and semantic maps for MMSegmentation,
    ``semantic/{train,val}/``, whose pixels are indices into ``(*CATEGORIES, *BACKGROUNDS)``.

    Args:
        out: Folder to write to.
        seed: Seed of the whole set, not negative.
        images: Number of training images.
        val_images: Number of validation images.
        size: Longer side of the images in pixels, 64 to 1024.
        progress: Called with (split, images done, images wanted).
        panoptic: Whether to label every pixel.

    Returns:
        False if the same set already existed, else True.

    Raises:
        ValueError: A number is out of range, or ``out`` holds files of another origin.
    """
    out, record = Path(out), _record(seed, images, val_images, size, least=1)
    if panoptic:
        record["panoptic"] = True
    if not _begin(out, record, ("annotations", *SPLITS, *(["semantic"] if panoptic else []))):
        return False
    categories = [
        dict(id=i, name=name, supercategory="shape") for i, name in enumerate(CATEGORIES, 1)
    ]
    for split, count in zip(SPLITS, (images, val_images), strict=True):
        content = _begin_json(split, seed, categories)
        labelled = _begin_json(split, seed, PANOPTIC_CATEGORIES)
        if panoptic:
            (out / "semantic" / split).mkdir()
            (out / "annotations" / f"panoptic_{split}").mkdir()
        for index in range(count):
            image, objects = draw_scene(seed, split, index, size)
            name = f"{index:06d}.png"
            write_png(out / split / name, image)
            height, width = image.shape[:2]
            content["images"].append(
                dict(id=index + 1, file_name=name, height=height, width=width, license=1)
            )
            for item in objects:
                number = len(content["annotations"]) + 1
                content["annotations"].append(_annotate(number, index + 1, item))
            if panoptic:
                labels = label_scene(objects, seed, split, index, size)
                write_png(out / "semantic" / split / name, labels)
                segments, infos = _segment(objects, labels)
                write_png(out / "annotations" / f"panoptic_{split}" / name, segments)
                labelled["annotations"].append(
                    dict(image_id=index + 1, file_name=name, segments_info=infos)
                )
            if progress:
                progress(split, index + 1, count)
        _write_json(out / "annotations" / f"instances_{split}.json", content)
        if panoptic:
            labelled["images"] = content["images"]
            _write_json(out / "annotations" / f"panoptic_{split}.json", labelled)
    _write_json(out / RECORD, dict(record, complete=True))
    return True


def _begin_json(split: str, seed: int, categories: list[dict]) -> dict:
    return dict(
        info=dict(description="shapes", version=str(VERSION), split=split, seed=seed),
        licenses=[dict(id=1, name="Apache-2.0", url="https://www.apache.org/licenses/LICENSE-2.0")],
        categories=categories,
        images=[],
        annotations=[],
    )


def _segment(objects: list[ShapeObject], labels: np.ndarray) -> tuple[np.ndarray, list[dict]]:
    """Number the segments of a scene from 1: its objects, then its backgrounds.

    Returns:
        The numbers as colours, as COCO's panoptic files hold them, uint8 RGB, ``(H, W, 3)``, and
        what is noted of each.
    """
    masks = [(item.label, item.visible) for item in objects]
    behind = range(len(CATEGORIES), len(CATEGORIES) + len(BACKGROUNDS))
    masks += [(label, labels == label) for label in behind]
    colours = np.zeros((*labels.shape, 3), np.uint8)
    infos: list[dict] = []
    for label, mask in masks:
        if not mask.any():
            continue
        box = list(cv2.boundingRect(mask.astype(np.uint8)))
        number = len(infos) + 1  # below 256, so that red alone tells it
        colours[mask, 0] = number
        infos.append(
            dict(id=number, category_id=label + 1, area=int(mask.sum()), bbox=box, iscrowd=0)
        )
    return colours, infos


# The same with a label for every pixel.
write_panoptic = partial(write_detection, panoptic=True)


def write_classification(
    out: str | Path,
    seed: int = 0,
    images: int = 4200,
    val_images: int = 200,
    size: int = 128,
    progress: Progress | None = None,
) -> bool:
    """Write the class-folder set: ``{train,val}/{category}/00000.png``.

    Args, return value and errors are those of :func:`write_detection`; ``images`` and
    ``val_images`` count all categories together and are at least one for each.
    """
    out = Path(out)
    record = _record(seed, images, val_images, size, least=len(CATEGORIES))
    if not _begin(out, record, SPLITS):
        return False
    for split, count in zip(SPLITS, (images, val_images), strict=True):
        for name in CATEGORIES:
            (out / split / name).mkdir()
        for index in range(count):
            image, label = draw_closeup(seed, split, index, size)
            name = f"{index // len(CATEGORIES):05d}.png"
            write_png(out / split / CATEGORIES[label] / name, image)
            if progress:
                progress(split, index + 1, count)
    _write_json(out / RECORD, dict(record, complete=True))
    return True
