"""Writing images without loss."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np


def write_png(path: Path, image: np.ndarray) -> None:
    """Write RGB ``(H, W, 3)`` or grey ``(H, W)``.

    Raises:
        OSError: If it cannot be written.
    """
    # imencode and not imwrite: imwrite answers a full disk with False and no reason.
    pixels = image[..., ::-1] if image.ndim == 3 else image
    path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
