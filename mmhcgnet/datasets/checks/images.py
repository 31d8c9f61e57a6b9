"""Image files: whether they are there, whole, and of the size that was noted."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np
from PIL import Image

from mmhcgnet.datasets.checks.findings import Finding, merge


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
