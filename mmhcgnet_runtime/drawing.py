"""Results drawn on images, legible on small and large ones."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

_LEAST = 400  # pixels of the longer side, to which smaller images are enlarged
_GOLDEN = 0.618034  # steps of this size around a circle never come close to each other soon

Box = tuple[float, float, float, float]


def draw(
    image: np.ndarray, result: dict[str, Any], classes: Sequence[str] = (), threshold: float = 0.3
) -> np.ndarray:
    """Draw boxes, masks and names, or the five best classes, on an image.

    Small images are enlarged by a whole number, so that text is as legible as on large ones. Labels
    do not cover each other where there is room for them.

    Args:
        image: RGB, uint8 ``(H, W, 3)``.
        result: What :class:`Predictor` returns for it, of a detector or a classifier; of what is
            known, objects have no ``scores``.
        classes: Names of the labels; others are shown as numbers.
        threshold: Objects with a lower score are left out. Classes are drawn whatever their score.

    Returns:
        RGB, uint8 ``(s * H, s * W, 3)`` for a whole number s.

    Raises:
        ValueError: If the result is of neither, as of a backbone.
    """
    scale = max(1, round(_LEAST / max(image.shape[:2])))
    canvas = Image.fromarray(image).resize(
        (scale * image.shape[1], scale * image.shape[0]), Image.Resampling.BICUBIC
    )
    font = ImageFont.load_default(max(12, round(max(canvas.size) / 50)))
    if "boxes" in result:
        return _draw_objects(canvas, result, classes, threshold, scale, font)
    if "label" in result:
        return _draw_classes(canvas, result["scores"], classes, font)
    raise ValueError("Only results of detectors and classifiers can be drawn.")


def name_of(label: int, classes: Sequence[str]) -> str:
    """The name of a label, or its number where it has none."""
    return str(classes[label]) if 0 <= label < len(classes) else str(label)


def colour_of(label: int) -> tuple[int, int, int]:
    """A bright colour for a label, far from those of its neighbours."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.75, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def _draw_objects(
    canvas: Image.Image, result: dict[str, Any], classes: Sequence[str], threshold: float,
    scale: int, font: Any,
) -> np.ndarray:  # fmt: skip
    scores = result.get("scores")
    drawn = range(len(result["boxes"]))
    if scores is not None:
        drawn = [i for i in drawn if scores[i] >= threshold]
    pixels = np.array(canvas)
    for i in drawn if "masks" in result else ():
        mask = np.asarray(result["masks"][i], bool).repeat(scale, 0).repeat(scale, 1)
        colour = np.array(colour_of(int(result["labels"][i])))
        pixels[mask] = (0.55 * pixels[mask] + 0.45 * colour).astype(np.uint8)
    canvas = Image.fromarray(pixels)
    pen = ImageDraw.Draw(canvas)
    width = max(2, round(max(canvas.size) / 300))
    boxes = [tuple(scale * float(side) for side in result["boxes"][i]) for i in drawn]
    for i, box in zip(drawn, boxes, strict=True):
        pen.rectangle(box, outline=colour_of(int(result["labels"][i])), width=width)
    taken: list[Box] = []
    for i, box in zip(drawn, boxes, strict=True):  # the best first
        label = int(result["labels"][i])
        text = name_of(label, classes)
        if scores is not None:
            text += f" {float(scores[i]):.2f}"
        place = _place(box, pen.textbbox((0, 0), text, font), canvas.size, taken)
        taken.append(place)
        pen.rectangle(place, fill=colour_of(label))
        pen.text((place[0] + 2, place[1] + 1), text, fill=(0, 0, 0), font=font)
    return np.array(canvas)


def _place(box: Box, text: Box, size: tuple[int, int], taken: list[Box]) -> Box:
    """Find room for a label: at a corner of its box, or else above or below the labels there."""
    wide, high = text[2] + 4, text[3] + 3
    x1, y1, x2, y2 = box
    corners = [(x1, y1 - high), (x1, y1), (x2 - wide, y1 - high), (x2 - wide, y1)]
    corners += [(x1, y2), (x1, y2 - high), (x2 - wide, y2), (x2 - wide, y2 - high)]
    corners += [(x1, y1 + step * high) for step in range(1, int(size[1] / high))]
    places = []
    for x, y in corners:
        left = min(max(x, 0), max(size[0] - wide, 0))
        top = min(max(y, 0), max(size[1] - high, 0))
        places.append((left, top, left + wide, top + high))
    free = (place for place in places if not any(_meet(place, other) for other in taken))
    return next(free, places[0])


def _meet(one: Box, other: Box) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _draw_classes(
    canvas: Image.Image, scores: np.ndarray, classes: Sequence[str], font: Any
) -> np.ndarray:
    best = np.argsort(-np.asarray(scores), kind="stable")[:5]
    lines = [f"{name_of(int(label), classes)} {float(scores[label]):.2f}" for label in best]
    pen = ImageDraw.Draw(canvas, "RGBA")
    text = "\n".join(lines)
    box = pen.multiline_textbbox((4, 3), text, font)
    pen.rectangle((0, 0, box[2] + 4, box[3] + 4), fill=(0, 0, 0, 150))
    pen.multiline_text((4, 3), text, fill=(255, 255, 255), font=font)
    return np.array(canvas)
