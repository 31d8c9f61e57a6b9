"""What is wrong with the data of a run: checks at its start, and errors that name the file."""

from __future__ import annotations

import logging
import os
import textwrap
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import PurePath
from types import FrameType, TracebackType

from mmengine.config import Config
from mmengine.dataset import BaseDataset
from mmengine.evaluator import BaseMetric
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from mmhcgnet.datasets.inspection import (
    Finding,
    inspect_coco,
    inspect_folders,
    inspect_image,
    inspect_images,
    inspect_listing,
    list_images,
    merge,
    read_coco,
    read_list,
    wrong_size,
)
from mmhcgnet.errors import DataError, MissingFileError, UsageError

from .configs import is_local, launched_rank

# MMPretrain's sets that fetch themselves unless download=False.
_DOWNLOADED = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
# What MMPretrain's CustomDataset reads by default.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")
_ADVICE = "`python tools/misc/check_data.py CONFIG` finds all such faults"
# Methods in which a data set or metric reads its files.
_BUILDING = ("__init__", "full_init", "load_data_list", "load_data", "filter_data")


@dataclass(frozen=True)
class _Source:
    """A data set or a metric that reads files; ``key`` is its dotted place in the config."""

    key: str
    cfg: dict

    @property
    def root(self) -> str:
        return self.cfg.get("data_root") or ""

    def files(self) -> dict[str, str]:
        """Annotation files and image folders, as the config writes them, by dotted key."""
        found = {f"{self.key}.ann_file": self.cfg.get("ann_file")}
        prefix = self.cfg.get("data_prefix") or {}
        if isinstance(prefix, str):
            found[f"{self.key}.data_prefix"] = prefix
        else:
            for name in ("img", "img_path"):
                found[f"{self.key}.data_prefix.{name}"] = prefix.get(name)
        if not prefix and _type_name(self.cfg) in ("ImageNet", "ImageNet21k"):
            found[f"{self.key}.split"] = self.cfg.get("split")
        return {key: path for key, path in found.items() if isinstance(path, str) and path}

    def join(self, path: str) -> str:
        """A path of the config as the data set reads it."""
        return os.path.join(self.root, os.path.expanduser(path))

    @property
    def is_here(self) -> bool:
        """Whether its files are of this file system."""
        backend = (self.cfg.get("backend_args") or {}).get("backend", "local")
        return backend in ("local", "disk") and is_local(self.root)

    @property
    def is_fetched(self) -> bool:
        """Whether the run fetches its files if they are not there."""
        return self.cfg.get("download", _type_name(self.cfg) in _DOWNLOADED)


def check_data(cfg: Config, *phases: str) -> None:
    """Check the data sets, annotation files and image folders of a run.

    No image is opened: it takes some ten seconds for COCO. ``tools/misc/check_data.py`` does more.
    In a distributed run rank 0 alone looks into the files. What is harmless is logged.

    Args:
        cfg: The config of the run.
        phases: Which of ``"train"``, ``"val"``, ``"test"`` it uses; those without a dataloader
            are passed over.

    Raises:
        MissingFileError: If something is not there. The message names the expected layout, and
            the ``--cfg-options`` which move all of it elsewhere.
        DataError: If annotations or classes are wrong, or images are missing.
    """
    check_files(cfg, *phases)
    if launched_rank(cfg.get("launcher", "none")) > 0:
        return
    for inspected in inspect_data(cfg, *phases):
        for finding in sorted(inspected.findings, key=lambda finding: finding.harmless):
            if not finding.harmless:
                raise DataError(finding.sentence)
            print_log(finding.sentence, logger="current", level=logging.WARNING)


def check_files(cfg: Config, *phases: str) -> None:
    """Check that the files and folders of the data sets and evaluators are there.

    Raises:
        MissingFileError: As of :func:`check_data`.
    """
    sources = [source for phase in phases for source in _phase_sources(cfg, phase)]
    sources = [source for source in sources if not source.is_fetched]
    for source in sources:
        if source.root and not os.path.isdir(source.root):
            raise _missing("data set", source.root, f"{source.key}.data_root", source, sources)
        for key, path in source.files().items():
            path = source.join(path)
            if is_local(path) and not os.path.exists(path):
                what = "annotation file" if key.endswith("ann_file") else "image folder"
                raise _missing(what, path, key, source, sources)


def _phase_sources(cfg: Config, phase: str) -> list[_Source]:
    sources: list[_Source] = []
    for section in ("dataloader", "evaluator"):
        sources += _sources(cfg.get(f"{phase}_{section}"), f"{phase}_{section}")
    return [source for source in sources if source.is_here]


def _sources(node: object, key: str) -> Iterator[_Source]:
    """Walk dataloaders, data set wrappers and lists down to what reads files."""
    if isinstance(node, list | tuple):
        for i, child in enumerate(node):
            yield from _sources(child, f"{key}.{i}")
    elif isinstance(node, dict):
        wrapped = [name for name in ("dataset", "datasets", "metrics") if node.get(name)]
        for name in wrapped:
            yield from _sources(node[name], f"{key}.{name}")
        if not wrapped:
            yield _Source(key, node)


def _type_name(cfg: dict) -> str:
    kind = cfg.get("type", "")
    return (kind if isinstance(kind, str) else kind.__name__).rpartition(".")[2]


def _missing(
    what: str, path: str, key: str, culprit: _Source, sources: list[_Source]
) -> MissingFileError:
    # A metric's file has no data_root of its own, but mostly lies in that of a data set.
    roots = [culprit.root] if culprit.root else [s.root for s in sources if s.root]
    root = next((r for r in roots if _relative(path, r) is not None), "")
    place = "" if os.path.isabs(path) else f" in {os.getcwd()}"
    begin = f"The {what} {path} ({key}) does not exist{place}: "
    if not root:
        return MissingFileError(f"{begin}put it there, or pass --cfg-options {key}=PATH.")

    layout, options = [], []
    for source in sources:
        if source.root and PurePath(source.root) == PurePath(root):
            options.append(f"{source.key}.data_root=DIR")
            layout += source.files().values()
        elif not source.root:
            for file_key, file in source.files().items():
                if (inside := _relative(file, root)) is not None:
                    options.append(f"{file_key}=DIR/{inside}")
                    layout.append(inside)
    parts = ",".join(dict.fromkeys(part for part in layout if not os.path.isabs(part)))
    expected = f"expected is {root.rstrip('/')}/{{{parts}}}; " if parts else ""
    make = "put or link it there"
    if "shapes" in PurePath(root).parts:
        flag = " --classification" if PurePath(root).name == "classification" else ""
        make = f"make it with `python tools/dataset_converters/make_shapes.py{flag}`"
    return MissingFileError(
        f"{begin}{expected}{make}, or name the folder DIR where it is: "
        f"--cfg-options {' '.join(options)}"
    )


def _relative(path: str, root: str) -> str | None:
    path, root = PurePath(path), PurePath(root)
    return str(path.relative_to(root)) if path.is_relative_to(root) else None


# What is in the files


@dataclass
class InspectedSet:
    """What was found in a data set, or in the annotations of an evaluation.

    Attributes:
        keys: Its places in the config.
        place: Its annotation file or image folder.
        findings: What is wrong with it.
        images: Its images, with the height and width that the annotations give.
    """

    keys: list[str]
    place: str
    findings: list[Finding]
    images: dict[str, tuple[int, int] | None] = field(default_factory=dict)

    def report(self) -> dict:
        """All of it but the images, of which it has the number, for JSON."""
        findings = [asdict(finding) for finding in self.findings]
        return dict(keys=self.keys, place=self.place, images=len(self.images), findings=findings)


def inspect_set_images(
    inspected: InspectedSet, workers: int = 0, progress: Callable[[int, int], None] | None = None
) -> None:
    """Open all images of a set and add what is wrong with them to its findings.

    Args:
        inspected: The set, changed in place.
        workers: Processes that decode beside this one.
        progress: Is told how many images are done, and of how many.

    Raises:
        DataError: If an image crashes the process that decodes it.
    """
    items = list(inspected.images.items())
    found: list[Finding] = []
    done = 0
    try:
        for done, faults in enumerate(inspect_images(items, workers), 1):
            found = merge([*found, *faults])
            if progress is not None:
                progress(done, len(items))
    except BrokenProcessPool as error:
        names = ", ".join(path for path, _ in items[done : done + 3])
        raise DataError(
            f"A process that decodes images has died, soon after {names}: open the next ones by "
            "--workers 0 to see which, or run with fewer --workers if memory ran out."
        ) from error
    inspected.findings += found


def inspect_data(cfg: Config, *phases: str, thorough: bool = False) -> Iterator[InspectedSet]:
    """Inspect the COCO, folder, list and CIFAR data sets of a config; others are passed over.

    Args:
        cfg: The config, whose files are there (:func:`check_files`).
        phases: As of :func:`check_data`.
        thorough: Whether to read polygons, too, and to list the images of folders. No image is
            opened either way.
    """
    coco: dict[tuple, _CocoFile] = {}
    others: dict[tuple, tuple[list[str], _Source, type]] = {}
    for phase in phases:
        classes = None
        for source in _phase_sources(cfg, phase):
            kind = _dataset_class(cfg, source)
            loader = getattr(getattr(kind, "load_data_list", None), "__qualname__", "")
            if loader == "CocoDataset.load_data_list":
                classes = _classes(kind, source)
                _note_coco(coco, source, classes, _loads_masks(source.cfg.get("pipeline")))
            elif loader in ("CustomDataset.load_data_list", "CIFAR10.load_data_list"):
                key = (kind, source.root, *source.files().values())
                others.setdefault(key, ([], source, kind))[0].append(source.key)
            elif _type_name(source.cfg) == "CocoMetric" and source.cfg.get("ann_file"):
                metrics = source.cfg.get("metric", "bbox")
                _note_coco(coco, source, classes, "segm" in metrics, evaluated=True)
    for file in coco.values():
        yield _inspect_coco_file(cfg, file, thorough)
    for keys, source, kind in others.values():
        yield _inspect_classified(cfg, keys, source, kind, thorough)


@dataclass
class _CocoFile:
    """An annotation file and all that reads it."""

    path: str
    classes: Sequence[str] | str | None
    sources: list[_Source] = field(default_factory=list)
    masks: bool = False
    evaluated: bool = False


def _note_coco(
    files: dict[tuple, _CocoFile],
    source: _Source,
    classes: Sequence[str] | str | None,
    masks: bool,
    evaluated: bool = False,
) -> None:
    path = source.join(source.cfg.get("ann_file") or "")
    if os.path.isfile(path):
        key = (os.path.realpath(path), str(classes))
        file = files.setdefault(key, _CocoFile(path, classes))
        file.sources.append(source)
        file.masks |= masks
        file.evaluated |= evaluated


def _inspect_coco_file(cfg: Config, file: _CocoFile, thorough: bool) -> InspectedSet:
    keys = [source.key for source in file.sources]
    inspected = InspectedSet(keys, file.path, _inspect_num_classes(cfg, keys[0], file.classes))
    if inspected.findings:
        return inspected
    content, inspected.findings = read_coco(file.path, polygons=thorough)
    if not content:
        return inspected
    inspected.findings += inspect_coco(
        content,
        file.path,
        file.classes,
        masks=file.masks,
        evaluated=file.evaluated,
        labelled=not all(key.startswith("test_") for key in keys),
    )
    folders = {
        source.join((source.cfg.get("data_prefix") or {}).get("img") or "")
        for source in file.sources
        if "dataset" in source.key
    }
    try:
        for image in content["images"]:
            size = (image["height"], image["width"])
            for folder in folders:
                inspected.images[os.path.join(folder, image["file_name"])] = size
    except (KeyError, TypeError):  # told among the findings already
        return inspected
    if not thorough:
        inspected.findings += inspect_listing(list(inspected.images))
    return inspected


def _inspect_classified(
    cfg: Config, keys: list[str], source: _Source, kind: type, thorough: bool
) -> InspectedSet:
    classes = _classes(kind, source)
    if kind.load_data_list.__qualname__.startswith("CIFAR"):
        inspected = InspectedSet(keys, source.root, _inspect_num_classes(cfg, keys[0], classes))
        if thorough:
            inspected.findings += _inspect_cifar(kind, source)
        return inspected
    prefix = source.cfg.get("data_prefix") or ""
    prefix = prefix if isinstance(prefix, str) else prefix.get("img_path") or ""
    listed = source.cfg.get("ann_file") or ""
    labelled = source.cfg.get("with_label", True)
    if split := source.cfg.get("split"):  # of ImageNet
        prefix = prefix or split
        labelled = labelled and split != "test"
        by_default = os.path.join("meta", f"{split}.txt")
        if not listed and os.path.exists(source.join(by_default)):
            listed = by_default
    root = source.join(prefix)
    if listed:
        num_classes = min(_num_classes(cfg).values(), default=None)
        place = source.join(listed)
        names, findings = read_list(place, labelled, num_classes)
        images = {os.path.join(root, name): None for name in names}
        if not thorough:
            findings += inspect_listing(list(images))
        return InspectedSet(keys, place, findings, images)

    extensions = source.cfg.get("extensions") or IMAGE_SUFFIXES
    findings = []
    if labelled:
        folders, findings = inspect_folders(root, extensions, classes)
        if not any(not finding.harmless for finding in findings):
            findings += _inspect_num_classes(cfg, keys[0], classes or folders)
            findings += _compare_folders(cfg, root, folders)
    images = list_images(root, extensions) if thorough or not labelled else []
    if not images and not labelled:
        findings.append(
            Finding("no images", [f"The image folder {root} holds no images"], "put some there")
        )
    return InspectedSet(keys, root, findings, dict.fromkeys(images))


def _inspect_cifar(kind: type, source: _Source) -> list[Finding]:
    """Compare the files of a CIFAR set with their published hashes."""
    from mmpretrain.datasets.utils import check_md5

    folder = os.path.join(source.join(source.cfg.get("data_prefix") or ""), kind.base_folder)
    fetched = source.cfg.get("download", True)
    findings = []
    for name, md5 in (*kind.train_list, *kind.test_list):
        path = os.path.join(folder, name)
        if not os.path.exists(path):
            remedy = "it is fetched when a run starts" if fetched else "download the set"
            text = f"The file {path} does not exist"
            findings.append(Finding("missing file", [text], remedy, harmless=fetched))
        elif not check_md5(path, md5):
            text = f"The file {path} is not as it was published (another MD5)"
            findings.append(Finding("damaged file", [text], "remove it and fetch it anew"))
    return merge(findings)


def _compare_folders(cfg: Config, root: str, folders: list[str]) -> list[Finding]:
    """Labels follow the order of the folders: they must be those that the model is trained on."""
    for source in _phase_sources(cfg, "train"):
        trained = source.join(str(source.cfg.get("data_prefix") or ""))
        plain = isinstance(source.cfg.get("data_prefix"), str) and not source.cfg.get("ann_file")
        if not plain or not os.path.isdir(trained):
            continue
        expected = sorted(entry.name for entry in os.scandir(trained) if entry.is_dir())
        odd = sorted(set(expected) ^ set(folders))
        if odd:
            text = f"The image folder {root} has other classes than {trained}: {', '.join(odd[:5])}"
            remedy = "name the folders alike in both and keep those of empty classes"
            return [Finding("other classes than in training", [text], remedy, count=1)]
    return []


def _dataset_class(cfg: Config, source: _Source) -> type | None:
    kind = source.cfg.get("type")
    if not isinstance(kind, str):
        return kind
    with DATASETS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        return registry.get(kind)


def _classes(kind: type, source: _Source) -> Sequence[str] | str | None:
    """The classes that a data set gets from its type and config; a text if it is given one."""
    try:
        classes = kind._load_metainfo(source.cfg.get("metainfo")).get("classes")
        given = source.cfg.get("classes")
        if isinstance(given, str):
            given = list_from_file(os.path.expanduser(given))
        return given or classes
    except Exception:  # it is told, with its cause, when the data set is built
        return None


def _inspect_num_classes(
    cfg: Config, key: str, classes: Sequence[str] | str | None
) -> list[Finding]:
    if classes is None:
        return []
    if isinstance(classes, str):
        text = f"{key}.metainfo.classes is the text {classes!r} and no list"
        return [Finding("classes that are no list", [text], f"write ({classes!r},)")]
    unlike = {name: count for name, count in _num_classes(cfg).items() if count != len(classes)}
    if not unlike:
        return []
    told = " and ".join(f"{name}={count}" for name, count in unlike.items())
    options = " ".join(f"{name}={len(classes)}" for name in unlike)
    text = f"The data set {key} has {len(classes)} classes and the config {told}"
    remedy = f"mend metainfo.classes, or pass --cfg-options {options}"
    return [Finding("num_classes unlike classes", [text], remedy)]


def _num_classes(cfg: Config) -> dict[str, int]:
    """``num_classes`` of the heads that classify, by their keys."""
    key, model = "model", cfg.get("model") or {}
    if isinstance(model.get("module"), dict):  # in test-time augmentation
        key, model = "model.module", model["module"]
    found = {}

    def look(node: object, key: str) -> None:
        if isinstance(node, list | tuple):
            for i, child in enumerate(node):
                look(child, f"{key}.{i}")
        elif isinstance(node, dict) and isinstance(node.get("num_classes"), int):
            found[f"{key}.num_classes"] = node["num_classes"]

    for name in ("head", "bbox_head", "mask_head"):
        look(model.get(name), f"{key}.{name}")
        if isinstance(model.get("roi_head"), dict):
            look(model["roi_head"].get(name), f"{key}.roi_head.{name}")
    return found


def _loads_masks(node: object) -> bool:
    children = node.values() if isinstance(node, dict) else node
    if isinstance(node, dict) and node.get("with_mask"):
        return True
    return isinstance(node, dict | list | tuple) and any(map(_loads_masks, children))


# Errors while loading


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
    path = _failed_path(error) or info.get("img_path")
    if not isinstance(path, str):
        return DataError(
            f"{_described(source)} cannot load its sample {index}: {_told(error)}; mend it or the "
            "pipeline."
        )
    if is_local(path):
        size = (info.get("height"), info.get("width"))
        known = path == info.get("img_path") and None not in size
        faults = inspect_image(path, size if known else None)
        fault = next((fault for fault in faults if not fault.harmless), None)
        if fault is not None:
            return DataError(f"The image {fault.sentence[:-1]} ({_ADVICE}).")
    annotated = f", annotated in {listed}," if listed else ""
    if isinstance(error, KeyError) and error.args == ("mask",):
        return DataError(
            f"An object in the image {path}{annotated} has no segmentation, and the pipeline "
            "loads masks: complete the annotation, or train without masks."
        )
    return DataError(
        f"The image {path}{annotated} can be read, but its sample cannot be made: {_told(error)}; "
        f"mend the annotation or the pipeline ({_ADVICE})."
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
        raise DataError(f"The image {fault.sentence[:-1]} ({_ADVICE}).")


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
            told = "no image is left in it" if empty else _told(error)
            return DataError(
                f"{_described(built)} cannot be built: {told}; mend its files or its config "
                f"({_ADVICE})."
            )
    return None


def _failed_path(error: Exception) -> str | None:
    """The image on which a transform failed: not always that of the sample that was asked for."""
    for frame in reversed(_frames(error.__traceback__)):
        sample = frame.f_locals.get("results")
        if isinstance(sample, dict) and isinstance(sample.get("img_path"), str):
            return sample["img_path"]
    return None


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
