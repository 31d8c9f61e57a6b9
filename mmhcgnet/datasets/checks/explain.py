"""Errors of a run's data, explained: the file, what is wrong, what to do."""

from __future__ import annotations

import textwrap
import traceback
from types import FrameType, TracebackType

from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric

from mmhcgnet.datasets.checks.findings import ADVICE
from mmhcgnet.errors import DataError, UsageError
from mmhcgnet.paths import is_local

from .images import inspect_image, wrong_size

# Methods in which a data set or metric reads its files.
_BUILDING = ("__init__", "full_init", "load_data_list", "load_data", "filter_data")


def explain_data_error(dataset: object, index: int, error: Exception) -> DataError:
    """Say in one sentence which file keeps a sample from being loaded, and what to do.

    Args:
        dataset: The data set, in wrappers (``RepeatDataset`` and the like) or not.
        index: The sample that was asked for.
        error: What ``dataset[index]`` raised, with its traceback.
    """
    if isinstance(error, UsageError):
        return error if isinstance(error, DataError) else DataError(str(error))
    info = _sample_info(dataset, index)
    source = _innermost(dataset, index)
    listed = getattr(source, "ann_file", "")
    failed = _failed_sample(error)
    path = failed.get("img_path") or info.get("img_path")
    loaded = failed.get("img") is not None
    if not isinstance(path, str):
        return DataError(
            f"{_described(source)} cannot load its sample {index}: {_told(error)}; fix it or the "
            "pipeline."
        )
    if is_local(path):
        size = (info.get("height"), info.get("width"))
        known = path == info.get("img_path") and None not in size
        if not loaded:
            faults = inspect_image(path, size if known else None)
        elif known and tuple(failed.get("ori_shape", size)) != size:
            faults = [wrong_size(path, size, failed["ori_shape"])]
        else:
            faults = []  # another transform has failed
        fault = next((fault for fault in faults if not fault.harmless), None)
        if fault is not None:
            return DataError(f"The image {fault.sentence[:-1]} ({ADVICE}).")
    annotated = f", annotated in {listed}," if listed else ""
    if isinstance(error, KeyError) and error.args == ("mask",):
        return DataError(
            f"An object in the image {path}{annotated} has no segmentation, and the pipeline "
            "loads masks: complete the annotation, or train without masks."
        )
    return DataError(
        f"The image {path}{annotated} can be read, but its sample cannot be made: {_told(error)}; "
        f"fix the annotation or the pipeline ({ADVICE})."
    )


def check_sample(dataset: object, index: int, sample: object) -> None:
    """Check that a loaded image has the size that its annotations give it.

    Nothing else would notice: its boxes are elsewhere, and those that are cut off at its border
    make the loss NaN.

    Args:
        dataset: The data set, in wrappers or not.
        index: The sample that was asked for.
        sample: What ``dataset[index]`` returned, as MMDetection packs it; others pass.

    Raises:
        DataError: If it has another size.
    """
    packed = sample.get("data_samples") if isinstance(sample, dict) else None
    packed = packed[0] if isinstance(packed, list) and packed else packed  # augmented for a test
    shape, path = (getattr(packed, name, None) for name in ("ori_shape", "img_path"))
    if shape is None or path is None or getattr(packed, "gt_instances", None) is None:
        return
    info = _sample_info(dataset, index)
    size = (info.get("height"), info.get("width"))
    # A data set may have taken another image instead.
    if None not in size and info.get("img_path") == path and tuple(shape[:2]) != size:
        fault = wrong_size(path, size, shape)
        raise DataError(f"The image {fault.sentence[:-1]} ({ADVICE}).")


def explain_building_error(error: Exception) -> DataError | None:
    """Say in one sentence which data set or metric cannot read its annotations.

    Returns:
        ``None`` if the error, with its traceback, does not come from there.
    """
    for frame in reversed(_frames(error.__traceback__)):
        built = frame.f_locals.get("self")
        if frame.f_code.co_name == "prepare_data" and isinstance(built, BaseDataset):
            return explain_data_error(built, frame.f_locals.get("idx", 0), error)
        if frame.f_code.co_name in _BUILDING and isinstance(built, BaseDataset | BaseMetric):
            empty = "need at least one array to concatenate" in str(error)
            told = "it has no image left" if empty else _told(error)
            return DataError(
                f"{_described(built)} cannot be built: {told}; fix its files or its config "
                f"({ADVICE})."
            )
    return None


def _failed_sample(error: Exception) -> dict:
    """What a transform failed on: not always the sample that was asked for."""
    for frame in reversed(_frames(error.__traceback__)):
        sample = frame.f_locals.get("results")
        if isinstance(sample, dict) and isinstance(sample.get("img_path"), str):
            return sample
    return {}


def _sample_info(dataset: object, index: int) -> dict:
    try:
        return dataset.get_data_info(index)
    except Exception:  # a data set of its own kind
        return {}


def _innermost(dataset: object, index: int) -> object:
    """The data set inside of wrappers that the sample comes from."""
    while hasattr(dataset, "dataset") or isinstance(getattr(dataset, "datasets", None), list):
        try:
            inner = dataset._get_ori_dataset_idx(index)
        except Exception:  # a wrapper of its own kind
            inner = index
        if hasattr(dataset, "dataset"):
            dataset, index = dataset.dataset, inner
        elif isinstance(inner, tuple):  # of several sets
            dataset, index = dataset.datasets[inner[0]], inner[1]
        else:
            break
    return dataset


def _described(dataset: object) -> str:
    places = [getattr(dataset, name, "") for name in ("ann_file", "data_root")]
    place = next((place for place in places if isinstance(place, str) and place), "")
    return f"The {type(dataset).__name__}" + (f" of {place}" if place else "")


def _told(error: Exception) -> str:
    """An error in one line, with the transform and the place that raised it."""
    text = textwrap.shorten(f"{type(error).__name__}: {error}".rstrip(": ."), 300, placeholder=" …")
    frames = _frames(error.__traceback__)
    transforms = [
        type(frame.f_locals["self"]).__name__
        for frame in frames
        if frame.f_code.co_name == "transform" and "self" in frame.f_locals
    ]
    transform = f"{transforms[-1]} raised " if transforms else ""
    summary = traceback.extract_tb(error.__traceback__)
    place = f" ({summary[-1].filename}, line {summary[-1].lineno})" if summary else ""
    return f"{transform}{text}{place}"


def _frames(trace: TracebackType | None) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(trace)]
