"""Masks of objects, pasted from their boxes into the image."""

from __future__ import annotations

import numpy as np


def paste(
    masks: np.ndarray, boxes: np.ndarray, size: tuple[int, int], threshold: float = 0.5
) -> np.ndarray:
    """Paste masks that cover their boxes, with bilinear interpolation.

    Outside of a mask, its probability falls to 0 within one of its positions.

    Args:
        masks: Probabilities, ``(n, h, w)``.
        boxes: ``(n, 4)`` as ``(x1, y1, x2, y2)`` in pixels of the image.
        size: Height and width of the image in pixels.
        threshold: From this probability on, a pixel belongs to the object.

    Returns:
        bool, ``(n, height, width)``.
    """
    height, width = size
    pasted = np.zeros((len(masks), height, width), dtype=bool)
    for mask, (x1, y1, x2, y2), out in zip(masks, boxes, pasted, strict=True):
        # A pixel beyond this has no position of the mask within reach.
        left, right = max(int(np.floor(x1)) - 1, 0), min(int(np.ceil(x2)) + 1, width)
        top, bottom = max(int(np.floor(y1)) - 1, 0), min(int(np.ceil(y2)) + 1, height)
        if left >= right or top >= bottom or x2 <= x1 or y2 <= y1:
            continue
        rows = _weights(top, bottom, y1, y2, mask.shape[0])
        columns = _weights(left, right, x1, x2, mask.shape[1])
        out[top:bottom, left:right] = rows @ mask @ columns.T >= threshold
    return pasted


def _weights(start: int, end: int, low: float, high: float, number: int) -> np.ndarray:
    """Weights of a mask's positions along one side, ``(end - start, number)``."""
    pixels = np.arange(start, end, dtype=np.float32) + np.float32(0.5)
    places = (pixels - low) / (high - low) * number - np.float32(0.5)
    distance = np.abs(places[:, None] - np.arange(number, dtype=np.float32))
    return np.maximum(1 - distance, 0).astype(np.float32)
