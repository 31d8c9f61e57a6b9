"""Images and videos in, annotated ones and predictions out."""

from __future__ import annotations

import glob
import itertools
import json
import os
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image
from pycocotools import mask as rle

from mmhcgnet.checkpoints import use_safe_loader
from mmhcgnet.checkpoints.durable_files import write_atomically
from mmhcgnet.engine.configs import load_config, shipped_config
from mmhcgnet.engine.inference import TorchPredictor
from mmhcgnet.errors import MissingFileError, UsageError, readable
from mmhcgnet.paths import IMAGES, images_below, shipped_weights
from mmhcgnet_runtime import Predictor, RuntimeFileError, draw
from mmhcgnet_runtime.drawing import name_of
from mmhcgnet_runtime.images import read

from .progress import leave_out_noise

_VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm", ".m4v")
# The network of which a first look is.
DETECTOR = "mask-rcnn_hcgnet-small_fpn-light_scratch_8e_shapes"
RECORDS = "predictions.json"
EXPORTED = (".onnx", ".xml")  # suffixes of exported models


def open_predictor(
    model: str, checkpoint: str | None, device: str, engine: str | None
) -> TorchPredictor | Predictor:
    """Open a config with its checkpoint, or an exported model.

    Args:
        model: A config or the name of one that is shipped, or a file of
            ``tools/deployment/export.py``.
        checkpoint: The weights of the config; by default those that ship under its name.
        device: Where PyTorch computes.
        engine: What runs an exported model; by default what is installed.

    Raises:
        UsageError: If they do not go together, or cannot be used.
    """
    if model.endswith(EXPORTED):
        if checkpoint:
            raise UsageError(f"{model} holds its weights: leave the checkpoint out.")
        try:
            predictor = Predictor(model, engine)
        except (FileNotFoundError, RuntimeFileError) as error:
            raise UsageError(str(error)) from error
        if predictor.facts["task"] not in ("classification", "detection"):
            raise UsageError(
                f"{model} is a backbone, whose maps cannot be drawn: export the whole network, "
                "without --backbone."
            )
        return predictor
    if engine:
        raise UsageError(f"{engine} runs exported models: name one, as .onnx or .xml.")
    config = shipped_config(model)
    if checkpoint is None:
        if shipped_weights(model) is None:
            raise UsageError(f"{model} is a config and has no weights: name a checkpoint after it.")
        checkpoint = model
    use_safe_loader()
    cfg = load_config(config)
    leave_out_noise(cfg)
    return TorchPredictor(cfg, checkpoint, device)


def is_video(source: str) -> bool:
    """Whether a path names a video, by its suffix."""
    return source.lower().endswith(_VIDEOS) and not os.path.isdir(source)


def find_images(source: str, out: Path | None = None) -> list[Path]:
    """Find the images that a file, a folder or a pattern names.

    A folder gives the images in it and below, by suffix, but for results of an earlier run in
    ``out``. Files that are named, by themselves or by a pattern, may have any suffix.

    Raises:
        MissingFileError: If it names nothing.
    """
    path = Path(os.path.expanduser(source))
    if path.is_dir():
        found = images_below(path)
        if out and (out / RECORDS).exists() and path.resolve() in out.resolve().parents:
            found = [file for file in found if out.resolve() not in file.resolve().parents]
        if not found:
            raise MissingFileError(f"The folder {source} has no images ({', '.join(IMAGES)}).")
        return found
    if path.exists():
        return [path]
    found = sorted(Path(name) for name in glob.glob(str(path), recursive=True))
    found = [file for file in found if file.is_file()]
    if not found:
        raise MissingFileError(f"{source} names no file, folder or pattern of files that exist.")
    return found


def predict_images(
    predictor: Any, files: Sequence[Path], out: Path, threshold: float, batch_size: int
) -> list[Path]:
    """Draw the predictions for images, and write them as JSON.

    Args:
        predictor: What :func:`open_predictor` returns.
        files: The images.
        out: Folder for ``predictions.json`` and the drawn images, which have the images' names,
            below the folder that all have in common.
        threshold: Objects with a lower score are not drawn; the JSON has all.
        batch_size: Images at once.

    Returns:
        The files that could not be read or predicted; each is named on stderr, and skipped.

    Raises:
        UsageError: If an image would be overwritten, or the model finds nothing that can be drawn.
    """
    paths = _drawn_paths(files, out)
    _check_inputs_stay(files, [*paths, out / RECORDS])
    failed, records = [], []
    progress = _Progress(len(files), "images")

    def skip(file: Path, why: str) -> None:
        failed.append(file)
        print(f"skipped: {readable(why)}", file=sys.stderr, flush=True)

    try:
        for batch in _batches(zip(itertools.count(1), files, paths), batch_size):
            images = {}
            for number, file, path in batch:
                try:
                    images[number, file, path] = read(file)
                except (OSError, RuntimeFileError, ValueError) as error:
                    skip(file, str(error))
            results = _predict(predictor, list(images.values()), batch_size)
            for ((number, file, path), image), result in zip(images.items(), results, strict=True):
                if isinstance(result, Exception):
                    skip(file, f"The image {file} cannot be predicted: {_reason(result)}")
                    continue
                path.parent.mkdir(parents=True, exist_ok=True)
                drawn = draw(image, result, predictor.classes, threshold)
                Image.fromarray(drawn).save(path)
                records += _records(result, predictor.classes, number, str(file))
            progress.advance(len(batch))
        progress.end()
    finally:  # whatever ends the run, what it has found is kept
        _write(out, records)
    return failed


def predict_video(predictor: Any, source: str, out: Path, threshold: float, batch_size: int) -> int:
    """Draw the predictions for the frames of a video, and write them as JSON.

    Args:
        predictor: As in :func:`predict_images`, and so are the others.
        source: The video.
        out: Folder for ``predictions.json`` and the drawn video, ``.mp4`` with the video's name;
            in the JSON, the first frame is image 1.
        threshold: Objects with a lower score are not drawn.
        batch_size: Frames at once.

    Returns:
        How many frames there were.

    Raises:
        UsageError: If it cannot be read or predicted, or would be overwritten, or OpenCV cannot
            write a video.
    """
    file = Path(os.path.expanduser(source))
    path = out / file.with_suffix(".mp4").name
    _check_inputs_stay([file], [path, out / RECORDS])
    video = cv2.VideoCapture(str(file))
    rate = video.get(cv2.CAP_PROP_FPS) or 25
    progress = _Progress(max(0, int(video.get(cv2.CAP_PROP_FRAME_COUNT))), "frames")
    records, writer, number = [], None, 0
    try:
        for batch in _batches(_frames(video), batch_size):
            for image, result in zip(batch, _predict(predictor, batch, batch_size), strict=True):
                if isinstance(result, Exception):
                    raise UsageError(
                        f"The frame {number + 1} of {source} cannot be predicted: {_reason(result)}"
                    ) from result
                drawn = draw(image, result, predictor.classes, threshold)
                if writer is None:
                    size = drawn.shape[1] // 2 * 2, drawn.shape[0] // 2 * 2  # what codecs take
                    writer = _open_writer(path, rate, size)
                writer.write(np.ascontiguousarray(drawn[: size[1], : size[0], ::-1]))
                number += 1
                records += _records(result, predictor.classes, number, source)
            progress.advance(len(batch))
    finally:  # whatever ends the run, what it has found is kept
        video.release()
        if writer is not None:
            writer.release()
            _write(out, records)
    if writer is None:
        raise UsageError(f"The video {source} cannot be read: it has no frames that OpenCV knows.")
    progress.end()
    return number


def _drawn_paths(files: Sequence[Path], out: Path) -> list[Path]:
    """Where the drawn images go: of two with one name, the second keeps its suffix, too."""
    common = Path(os.path.commonpath([os.path.abspath(file.parent) for file in files]))
    paths: list[Path] = []
    taken = set()
    for file in files:
        path = out / Path(os.path.abspath(file)).relative_to(common).with_suffix(".png")
        if path in taken:  # as of a.jpg and a.png
            path = path.with_name(f"{file.name}.png")
        taken.add(path)
        paths.append(path)
    return paths


def _check_inputs_stay(inputs: Sequence[Path], outputs: Sequence[Path]) -> None:
    """Check that no result would overwrite an input, not even by a link.

    Raises:
        UsageError: If one would.
    """
    known = {_identity(path) for path in inputs if os.path.exists(path)}
    for path in outputs:
        if os.path.exists(path) and _identity(path) in known:
            raise UsageError(
                f"{path} is one of the inputs and would be overwritten: name another folder for "
                "the results."
            )


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _open_writer(path: Path, rate: float, size: tuple[int, int]) -> cv2.VideoWriter:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), rate, size)
    if not writer.isOpened():
        raise UsageError(
            f"OpenCV cannot write {path}: make sure that files can be written there, and install "
            "an OpenCV that has FFmpeg, as opencv-python does."
        )
    return writer


def _frames(video: cv2.VideoCapture) -> Iterator[np.ndarray]:
    while (frame := video.read()[1]) is not None:
        yield np.ascontiguousarray(frame[..., ::-1])


def _batches(items: Iterable[Any], size: int) -> Iterator[list[Any]]:
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def _predict(
    predictor: Any, images: list[np.ndarray], batch_size: int
) -> list[dict[str, Any] | Exception]:
    """A result for each image, or why there is none.

    Where they cannot be predicted at once, as a classifier's of several sizes, each is alone.
    """
    try:
        return predictor(images, batch_size=batch_size) if images else []
    except UsageError:  # it is the model's
        raise
    except Exception as error:  # what an image makes libraries raise has no common type
        if len(images) == 1:
            return [error]
        return [_predict(predictor, [image], 1)[0] for image in images]


def _reason(error: Exception) -> str:
    return textwrap.shorten(f"{type(error).__name__}: {error}", 300, placeholder=" …")


def _records(
    result: dict[str, Any], classes: Sequence[str], number: int, file: str
) -> list[dict[str, Any]]:
    """What COCO's results format has of an image, and the names of file and class."""
    source = dict(image_id=number, file_name=file)
    if "boxes" not in result:
        label = result["label"]
        score = float(result["scores"][label])
        return [dict(source, label=label, name=name_of(label, classes), score=score)]
    records = []
    for i, (x1, y1, x2, y2) in enumerate(np.asarray(result["boxes"], float)):
        label = int(result["labels"][i])
        record = dict(
            source,
            category_id=label + 1,
            category_name=name_of(label, classes),
            bbox=[x1, y1, x2 - x1, y2 - y1],
            score=float(result["scores"][i]),
        )
        if "masks" in result:
            mask = rle.encode(np.asfortranarray(result["masks"][i], dtype=np.uint8))
            record["segmentation"] = dict(mask, counts=mask["counts"].decode())
        records.append(record)
    return records


def _write(out: Path, records: list[dict[str, Any]]) -> None:
    write_atomically(str(out / RECORDS), json.dumps(records).encode())


class _Progress:
    """Says how far the work is and how long it will take, every few seconds."""

    def __init__(self, total: int, what: str) -> None:
        self._total, self._what = total, what
        self._done, self._start = 0, time.monotonic()
        self._said = self._start

    def advance(self, number: int) -> None:
        self._done += number
        now = time.monotonic()
        if now - self._said < 2 or self._done >= self._total > 0:
            return
        self._said = now
        left = (now - self._start) / self._done * (self._total - self._done)
        rest = f" of {self._total}, {left:.0f} s left" if self._total else ""
        print(f"{self._what}: {self._done}{rest}", flush=True)

    def end(self) -> None:
        seconds = time.monotonic() - self._start
        print(f"{self._what}: {self._done} in {seconds:.1f} s", flush=True)
