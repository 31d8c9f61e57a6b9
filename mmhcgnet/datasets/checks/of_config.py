"""What is wrong with the data of a run: checks at its start, and errors that name the file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field
from pathlib import PurePath

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import DATASETS

from mmhcgnet.errors import DataError, MissingFileError
from mmhcgnet.paths import is_local

from .coco import inspect_coco, read_coco
from .findings import Finding, merge
from .folders import inspect_folders, list_images, read_list
from .images import inspect_images, inspect_listing

# MMPretrain's sets that fetch themselves unless download=False.
_DOWNLOADED = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
# What MMPretrain's CustomDataset reads by default.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")


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


def check_data(cfg: Config, *phases: str, files_only: bool = False) -> None:
    """Check the data sets, annotation files and image folders of a run.

    No image is opened: it takes some ten seconds for COCO. ``tools/misc/check_data.py`` does more.
    What is harmless is logged.

    Args:
        cfg: The config of the run.
        phases: Which of ``"train"``, ``"val"``, ``"test"`` it uses; those without a dataloader
            are passed over.
        files_only: Only check that the files are there, as it is enough for all but one of the
            processes of a distributed run.

    Raises:
        MissingFileError: If something is not there. The message names the expected layout, and
            the ``--cfg-options`` which move all of it elsewhere.
        DataError: If annotations or classes are wrong, or images are missing.
    """
    check_files(cfg, *phases)
    if files_only:
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
