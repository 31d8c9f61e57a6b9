"""Reading and resizing images as the MM toolboxes do, of which OpenCV is not needed."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .engines import RuntimeFileError


def read(image: Any) -> np.ndarray:
    """Return an image as uint8 ``(H, W, 3)`` in RGB.

    Args:
        image: A file, whose EXIF orientation counts; an image of Pillow; or uint8 ``(H, W, 3)`` in
            RGB, or ``(H, W)`` in grey. Of 16 bits the upper 8 are taken, as OpenCV does.

    Raises:
        FileNotFoundError: If the file does not exist.
        RuntimeFileError: If it is none of these.
    """
    if isinstance(image, str | os.PathLike):
        if not os.path.isfile(image):
            raise FileNotFoundError(f"The image {image} does not exist.")
        try:
            with Image.open(image) as opened:
                return _to_rgb(ImageOps.exif_transpose(opened), opened.format)
        except Exception as error:  # decoders raise what they like
            raise RuntimeFileError(f"The image {image} cannot be read: {error}") from error
    if isinstance(image, Image.Image):
        try:
            return _to_rgb(image, image.format)
        except ValueError as error:
            raise RuntimeFileError(f"The image cannot be read: {error}") from error
    array = np.asarray(image)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or not array.size:
        raise RuntimeFileError(
            f"An image is a file or uint8 of height x width x 3, not {array.dtype} of "
            f"{' x '.join(map(str, array.shape))}."
        )
    return array


def lacks_scale(mode: str, format: str | None) -> bool:
    """Whether numbers of 32 bits, of which none is known to be white, stand for the shades.

    Args:
        mode: Of an image of Pillow.
        format: The file format that Pillow gives it. In ``I``, made for 32 bits, some versions of
            Pillow have PNG and PGM of 16 bits, too.
    """
    return mode == "F" or (mode == "I" and format not in ("PNG", "PPM"))


def _to_rgb(image: Image.Image, format: str | None) -> np.ndarray:
    if lacks_scale(image.mode, format):
        raise ValueError(
            f"its values are of 32 bits (Pillow's mode {image.mode}), and which of them is white "
            "is not known: save it with 8 or 16 bits"
        )
    if image.mode.startswith("I"):  # Pillow would clip 16 bits at 255
        return np.repeat((np.asarray(image) >> 8).astype(np.uint8)[..., None], 3, axis=2)
    return np.array(image.convert("RGB"))


def prepare(image: np.ndarray, steps: list[dict[str, Any]]) -> np.ndarray:
    """Resize and crop an image ``(H, W, 3)`` as a file's ``steps`` say."""
    for step in steps:
        height, width = image.shape[:2]
        if step["kind"] == "center_crop":
            image = _center_crop(image, *step["size"])
            continue
        if step["kind"] == "resize_edge":
            size = _size_by_edge(width, height, step["size"], step["edge"])
        elif step["keep_ratio"]:
            longest, shortest = max(step["size"]), min(step["size"])
            factor = min(longest / max(height, width), shortest / min(height, width))
            size = max(1, int(width * factor + 0.5)), max(1, int(height * factor + 0.5))
        else:
            size = tuple(step["size"])
        image = resize(image, size, step["interpolation"], step["backend"])
    return image


def _size_by_edge(width: int, height: int, size: int, edge: str) -> tuple[int, int]:
    by_width = edge == "width" or dict(short=width < height, long=width > height).get(edge, False)
    if by_width:
        return size, max(1, int(size * height / width))
    return max(1, int(size * width / height)), size


def _center_crop(image: np.ndarray, width: int, height: int) -> np.ndarray:
    top = max(0, round((image.shape[0] - height) / 2))
    left = max(0, round((image.shape[1] - width) / 2))
    return image[top : top + height, left : left + width]


def pad(images: Sequence[np.ndarray], divisor: int) -> tuple[np.ndarray, np.ndarray]:
    """Make a batch of images of different size.

    Args:
        images: uint8 ``(H_i, W_i, 3)``.
        divisor: Of the sides of the batch.

    Returns:
        The batch, uint8 ``(N, H, W, 3)`` with zeros at the right and at the bottom, and heights and
        widths without them, int64 ``(N, 2)``.
    """
    sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
    height, width = (int(-(-side // divisor) * divisor) for side in sizes.max(axis=0))
    batch = np.zeros((len(images), height, width, 3), dtype=np.uint8)
    for place, image in zip(batch, images, strict=True):
        place[: image.shape[0], : image.shape[1]] = image
    return batch, sizes


def resize(
    image: np.ndarray, size: tuple[int, int], interpolation: str, backend: str
) -> np.ndarray:
    """Resize an image.

    Args:
        image: uint8 ``(H, W, 3)``.
        size: Width and height in pixels.
        interpolation: ``'bilinear'``, or another one of Pillow's.
        backend: ``'pillow'``, which averages where it makes an image smaller, or ``'cv2'``, which
            does not.
    """
    if backend == "pillow":
        kind = Image.Resampling[interpolation.upper()]
        return np.array(Image.fromarray(image).resize(size, kind))
    width, height = size
    if (height, width) == image.shape[:2]:
        return image
    # OpenCV's bilinear interpolation of bytes, in integers as there: 11 bits for a weight.
    left, right, weights = _neighbours(image.shape[1], width)
    weights = weights[:, None]
    rows = image[:, left] * (2048 - weights) + image[:, right] * weights
    upper, lower, weights = _neighbours(image.shape[0], height)
    weights = weights[:, None, None]
    rows >>= 4
    total = (rows[upper] * (2048 - weights) >> 16) + (rows[lower] * weights >> 16)
    return (total + 2 >> 2).astype(np.uint8)


def _neighbours(old: int, new: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Both neighbours of each new position, and the weight of the second of them."""
    places = ((np.arange(new) + 0.5) * (old / new) - 0.5).astype(np.float32)
    first = np.floor(places).astype(np.int32)
    weights = np.rint((places - first) * np.float32(2048)).astype(np.int32)
    return first.clip(0, old - 1), (first + 1).clip(0, old - 1), weights
