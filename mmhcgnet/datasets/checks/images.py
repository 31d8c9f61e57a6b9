"""Image files: whether they are there, whole, and of the size that was noted."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from functools import partial

import cv2
import numpy as np
from PIL import Image

from mmhcgnet.config_dicts import type_name
from mmhcgnet.datasets.checks.findings import EXTREME, Finding, is_extreme, merge

_UNKNOWN = "of no known format"
# In so many transforms an image has to be loaded.
_MOST_TRANSFORMS = 5


class PipelineLoader:
    """Reads images by the transforms that a pipeline begins with, up to the one that loads.

    Args:
        pipeline: The configs of the transforms.
        build: Makes a transform of one. What cannot be made is reported when the data set is built.
    """

    def __init__(self, pipeline: Sequence[dict], build: Callable[[dict], Callable]) -> None:
        self.transforms = []
        with suppress(Exception):
            for cfg in pipeline[:_MOST_TRANSFORMS]:
                self.transforms.append(build(cfg))

    def __call__(self, path: str) -> np.ndarray | None:
        """Read an image.

        Returns:
            The image, ``(H, W)`` or ``(H, W, C)``, or ``None`` if the pipeline passes it over.

        Raises:
            KeyError: If the transforms need more than a path.
            Exception: What else they raise.
        """
        results = dict(img_path=path, img_id=0, instances=[], seg_map_path=None, sample_idx=0)
        for transform in self.transforms:
            results = transform(results)
            if results is None or results.get("img") is not None:
                return None if results is None else results["img"]
        raise KeyError("img")


def loads_by_default(transform: dict) -> bool:
    """Whether a transform reads three channels of 8 bits by OpenCV, as most configs do."""
    options = {"color_type": "color", "imdecode_backend": "cv2"}
    return (
        type_name(transform) == "LoadImageFromFile"
        and has_local_backend(transform)
        and all(transform.get(key, value) == value for key, value in options.items())
    )


def has_local_backend(cfg: dict) -> bool:
    """Whether a data set, metric or transform names no other backend than the local one."""
    named = [cfg.get(key) or {} for key in ("backend_args", "file_client_args")]
    return all(args.get("backend", "local") in ("local", "disk") for args in named)


def inspect_images(
    items: Sequence[tuple[str, tuple[int, int] | None]],
    workers: int = 0,
    loader: PipelineLoader | None = None,
) -> Iterator[list[Finding]]:
    """Inspect many images, in their order.

    Args:
        items: The arguments of :func:`inspect_image` for each.
        workers: Processes that decode; with 0 this one does.
        loader: As of :func:`inspect_image`.

    Raises:
        RuntimeError: If an image crashes a process.
    """
    inspect = partial(_inspect_item, loader)
    if workers == 0:
        yield from map(inspect, items)
        return
    with ProcessPoolExecutor(workers, initializer=_start_worker) as pool:
        yield from pool.map(inspect, items, chunksize=16)


def _inspect_item(
    loader: PipelineLoader | None, item: tuple[str, tuple[int, int] | None]
) -> list[Finding]:
    return inspect_image(*item, loader)


def _start_worker() -> None:
    cv2.setNumThreads(0)
    # The decoders' own complaints, which do not name the file.
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)


def inspect_image(
    path: str, size: tuple[int, int] | None = None, loader: PipelineLoader | None = None
) -> list[Finding]:
    """Find what is wrong with an image.

    It is decoded twice: as training does, and by Pillow, which notices that a file ends early,
    where OpenCV leaves the rest of the image grey.

    Args:
        path: A file of this file system.
        size: Height and width in pixels that the annotations give it.
        loader: What the pipeline loads it by, if that is not OpenCV with its defaults. A format
            that Pillow does not know is not a fault then.
    """
    fault = inspect_file(path)
    if fault is not None:
        return [fault]
    try:
        with open(path, "rb") as file:
            content = file.read()
    except OSError as error:
        return [_bad_file("unreadable image", f"{path} cannot be read ({error.strerror})")]
    if extent := _extreme_extent(content):
        return [Finding("image of extreme size", [f"{path} has {extent} pixels"], EXTREME)]
    damage, mode = _decode_strictly(content)
    found = []
    if loader is None:
        image = _decode(content)
        if image is None:
            why = damage or "OpenCV does not read it"
            return [_bad_file("undecodable image", f"{path} cannot be read as an image ({why})")]
        found = _inspect_conversion(path, mode, image)
    else:
        try:
            image = loader(path)
        except KeyError:
            return []  # a data set knows more of a sample
        except Exception as error:  # what a file makes libraries raise has no common type
            why = " ".join(f"{type(error).__name__}: {error}".split())
            return [_bad_file("undecodable image", f"{path} cannot be read as an image ({why})")]
        if image is None:
            text = f"{path} cannot be read, and the pipeline skips it"
            return [Finding("image passed over", [text], "put a good image there", harmless=True)]
        damage = "" if damage == _UNKNOWN else damage
    if damage:
        found.insert(0, _bad_file("damaged image", f"{path} is damaged or ends early ({damage})"))
    if size is not None and image.shape[:2] != tuple(size):
        found.append(wrong_size(path, size, image.shape))
    return found


def _extreme_extent(content: bytes) -> str:
    """Width and height of an image that takes too much to decode, by its header alone."""
    most, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(io.BytesIO(content)) as image:
            width, height = image.size
    except Exception:  # Pillow does not know it; what a damaged header raises has no common type
        return ""
    finally:
        Image.MAX_IMAGE_PIXELS = most
    return f"{width:,} x {height:,}" if is_extreme(width, height) else ""


def _decode(content: bytes) -> np.ndarray | None:
    try:
        # As IMREAD_COLOR, which training uses, but in the depth of the file.
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def _inspect_conversion(path: str, mode: str, image: np.ndarray) -> list[Finding]:
    """Find what gets lost when OpenCV makes three channels of 8 bits of an image."""
    found = []
    if mode == "CMYK":
        text = f"{path} is in CMYK, whose colours are only roughly converted"
        found.append(Finding("CMYK image", [text], "convert it to RGB", harmless=True))
    if image.dtype != np.uint8:
        text = f"{path} holds {image.dtype} values, which are read as 8 bits"
        remedy = "convert it with the scale that you want"
        found.append(Finding("image of more than 8 bits", [text], remedy, harmless=True))
    return found


def wrong_size(path: str, size: Sequence[int], shape: Sequence[int]) -> Finding:
    """The fault of an image.

    Args:
        path: Its file.
        size: Height and width in pixels as they are annotated.
        shape: Those that it has; further entries do not matter.
    """
    found, told = f"{shape[1]} wide and {shape[0]} high", f"{size[1]} and {size[0]}"
    text = f"{path} is {found}, but its annotations say {told}"
    remedy = "replace the image, or fix its width, height, boxes and masks"
    return Finding("image of another size", [text], remedy)


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
        return _bad_file("unreadable image", f"{path!r} is not a file name ({error})")
    if not stat.S_ISREG(status.st_mode):
        text = "a folder" if stat.S_ISDIR(status.st_mode) else "a pipe or device"
        return _bad_file("image that is no file", f"{path} is {text}, not an image")
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
        return _UNKNOWN, mode
    except Exception as error:  # Pillow's plug-ins raise all kinds
        return " ".join(str(error).split()) or type(error).__name__, mode
    return "", mode


def inspect_listing(paths: Sequence[str]) -> list[Finding]:
    """Find images that do not exist, from listings of their folders: no file is touched."""
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
        # What is not a plain file there, such as a link, may still be an image.
        if not folders[folder].get(name) and (fault := inspect_file(path)) is not None:
            faults.append(fault)
    return merge(faults)
