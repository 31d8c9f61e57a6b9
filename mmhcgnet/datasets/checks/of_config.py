"""What is wrong with the data that a config names: checks before a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field

from mmengine.config import Config
from mmengine.fileio import list_from_file
from mmengine.logging import print_log
from mmengine.registry import TRANSFORMS

from mmhcgnet.config_dicts import dataset_class, nested_dicts, placed_dicts, type_name
from mmhcgnet.errors import DataError, readable
from mmhcgnet.paths import is_local

from .coco import (
    WITHOUT_OBJECTS,
    TrainedClasses,
    as_instances,
    inspect_coco,
    moved_classes,
    read_coco,
)
from .findings import Finding, merge, select
from .folders import inspect_folders, read_list, walk_images
from .images import PipelineLoader, inspect_images, inspect_listing, loads_by_default
from .sources import (
    Source,
    all_sources,
    check_files,
    finds_images_as_known,
    phase_sources,
)
from .truth import compare_truth

# What MMPretrain's CustomDataset reads by default.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif")


def check_data(
    cfg: Config, *phases: str, files_only: bool = False, as_in_training: bool = True
) -> None:
    """Check the data sets, annotation files and image folders of a run.

    No image is opened: it takes some ten seconds for COCO. ``tools/misc/check_data.py`` does more.
    What is harmless is logged.

    Args:
        cfg: The config of the run.
        phases: Which of ``"train"``, ``"val"``, ``"test"`` it uses; those without a dataloader
            are passed over.
        files_only: Only check that the files are there, as it is enough for all but one of the
            processes of a distributed run.
        as_in_training: Whether the classes have to be in the order of the config's training.

    Raises:
        MissingFileError: If something does not exist. The message names the expected layout, and
            the settings which move all of it elsewhere.
        DataError: If annotations or classes are wrong, or images are missing.
    """
    check_files(cfg, *phases)
    if files_only:
        return
    for inspected in inspect_data(cfg, *phases, as_in_training=as_in_training):
        for finding in sorted(inspected.findings, key=lambda finding: finding.harmless):
            if not finding.harmless:
                raise DataError(finding.sentence)
            print_log(readable(finding.sentence), logger="current", level=logging.WARNING)


@dataclass
class InspectedSet:
    """What was found in a data set, or in the annotations of an evaluation.

    Attributes:
        keys: Its places in the config.
        place: Its annotation file or image folder.
        findings: What is wrong with it.
        images: Its images, with the height and width that the annotations give.
        loaders: What the pipelines load them by, ``None`` for OpenCV with its defaults.
    """

    keys: list[str]
    place: str
    findings: list[Finding]
    images: dict[str, tuple[int, int] | None] = field(default_factory=dict)
    loaders: list[PipelineLoader | None] = field(default_factory=lambda: [None])

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
        workers: Processes that decode besides this one.
        progress: Gets how many images are done, and of how many.

    Raises:
        DataError: If an image crashes the process that decodes it.
    """
    items = list(inspected.images.items())
    total = len(items) * len(inspected.loaders)
    found: list[Finding] = []
    done = 0
    try:
        for loader in inspected.loaders:
            for faults in inspect_images(items, workers, loader):
                done += 1
                found = merge([*found, *faults])
                if progress is not None:
                    progress(done, total)
    except BrokenProcessPool as error:
        begin = done % len(items)
        names = ", ".join(path for path, _ in items[begin : begin + 3])
        raise DataError(
            f"A process that decodes images died soon after {names}: open the next ones with "
            "workers=0 to see which, or run with fewer workers if memory ran out."
        ) from error
    inspected.findings += found


def inspect_data(
    cfg: Config, *phases: str, thorough: bool = False, as_in_training: bool = True
) -> Iterator[InspectedSet]:
    """Inspect the COCO, folder, list and CIFAR data sets of a config; others are passed over.

    Args:
        cfg: The config, whose files are there (:func:`check_files`).
        phases: As of :func:`check_data`.
        thorough: Whether to read polygons, too, and to list the images of folders. No image is
            opened either way.
        as_in_training: As of :func:`check_data`.
    """
    coco: dict[tuple, _CocoFile] = {}
    others: dict[tuple, tuple[list[str], Source, type]] = {}
    trained_classes = _trained_classes(cfg) if as_in_training else None
    evaluated: list[tuple[str, list[Source]]] = []
    for phase in phases:
        classes, panoptic = None, False
        sources = phase_sources(cfg, phase)
        for source in sources:
            kind, loader = dataset_class(cfg, source.cfg), _loader_name(cfg, source)
            if loader == "CocoDataset.load_data_list":
                classes = _classes(kind, source)
                panoptic = _is_panoptic(kind)
                _note_coco(coco, source, classes, kind)
                if panoptic:  # metrics of boxes and masks know the things alone
                    classes = _kinds_of_classes(kind, source)[0]
            elif loader in ("CustomDataset.load_data_list", "CIFAR10.load_data_list"):
                key = (kind, source.root, *source.files().values())
                others.setdefault(key, ([], source, kind))[0].append(source.key)
            elif type_name(source.cfg) == "CocoMetric" and source.cfg.get("ann_file"):
                _note_coco(coco, source, classes)
        if phase != "train" and not panoptic:
            evaluated.append((phase, sources))
    trained = TrainedClasses(trained_classes)
    inspected = [_inspect_coco_file(cfg, file, thorough, trained) for file in coco.values()]
    files = list(zip(coco.values(), inspected, strict=True))
    _require_objects(cfg, [found for file, found in files if file.only_trained])
    yield from inspected
    faulty = {
        os.path.realpath(file.path)
        for file, found in files
        if any(not finding.harmless for finding in found.findings)
    }
    for phase, sources in evaluated:
        yield from _inspect_truth(cfg, phase, sources, faulty)
    for keys, source, kind in others.values():
        yield _inspect_classified(cfg, keys, source, kind, thorough, trained_classes)


@dataclass
class _CocoFile:
    """An annotation file and all that reads it."""

    path: str
    classes: Sequence[str] | str | None
    kind: type | None = None
    sources: list[Source] = field(default_factory=list)

    @property
    def datasets(self) -> list[Source]:
        return [source for source in self.sources if source.is_dataset]

    @property
    def evaluated(self) -> bool:
        return len(self.datasets) < len(self.sources)

    @property
    def masks(self) -> bool:
        """Whether masks are loaded or evaluated."""
        return any(
            _loads(source.cfg.get("pipeline"), "with_mask")
            if source.is_dataset
            else "segm" in source.cfg.get("metric", "bbox")
            for source in self.sources
        ) and not _is_panoptic(self.kind)

    @property
    def trained(self) -> bool:
        """Whether a model is trained on its annotations, and not just on its images."""
        return any(
            source.key.startswith("train_") and not _is_unlabelled(source)
            for source in self.datasets
        )

    @property
    def only_trained(self) -> bool:
        """Whether nothing is validated or tested with it."""
        return self.trained and all(source.key.startswith("train_") for source in self.sources)


def _is_panoptic(kind: type | None) -> bool:
    return getattr(kind, "ANN_ID_UNIQUE", True) is False


def _kinds_of_classes(kind: type, source: Source) -> tuple[Sequence[str], Sequence[str]]:
    """The classes of things and of stuff that a panoptic data set names."""
    metainfo = kind._load_metainfo(source.cfg.get("metainfo"))
    return metainfo.get("thing_classes") or (), metainfo.get("stuff_classes") or ()


def _is_unlabelled(source: Source) -> bool:
    """Whether a pipeline loads no annotations, as those of semi-supervised recipes."""
    names = {type_name(node) for node in nested_dicts(source.cfg.get("pipeline"))}
    return bool(names) and not any(
        "Annotation" in name for name in names - {"LoadEmptyAnnotations"}
    )


def _require_objects(cfg: Config, inspected: list[InspectedSet]) -> None:
    """Refuse training files without usable objects if no other training data may have any.

    Alone they are harmless: next to others, a file may hold nothing but negatives.
    """
    empty = [
        (found, finding)
        for found in inspected
        for finding in found.findings
        if finding.kind in WITHOUT_OBJECTS
    ]
    places = {key for found, _ in empty for key in found.keys}
    labelled = [
        source
        for source in all_sources(cfg, "train")
        if source.is_dataset and not _is_unlabelled(source)
    ]
    if all(source.key in places for source in labelled):
        for _, finding in empty:
            finding.harmless = False


def _loads(pipeline: object, what: str) -> bool:
    return any(node.get(what) for node in nested_dicts(pipeline))


def _note_coco(
    files: dict[tuple, _CocoFile],
    source: Source,
    classes: Sequence[str] | str | None,
    kind: type | None = None,
) -> None:
    path = source.join(source.cfg.get("ann_file") or "")
    if os.path.isfile(path):
        key = (os.path.realpath(path), str(classes))
        files.setdefault(key, _CocoFile(path, classes, kind)).sources.append(source)


def _inspect_coco_file(
    cfg: Config, file: _CocoFile, thorough: bool, trained: TrainedClasses
) -> InspectedSet:
    keys = [source.key for source in file.sources]
    findings = _inspect_num_classes(cfg, file.sources[0], file.classes, file.kind)
    inspected = InspectedSet(keys, file.path, findings)
    if inspected.findings:
        return inspected
    content, inspected.findings = read_coco(file.path, polygons=thorough)
    if not content:
        return inspected
    panoptic = _is_panoptic(file.kind)
    instances = as_instances(content) if panoptic else content
    inspected.findings += inspect_coco(
        instances,
        file.path,
        file.classes,
        masks=file.masks,
        evaluated=file.evaluated,
        labelled=file.trained or any(key.startswith("val_") for key in keys),
        trained=file.trained,
        order=trained,
        unique=not panoptic,
    )
    if file.only_trained:
        for finding in inspected.findings:
            finding.harmless |= finding.kind in WITHOUT_OBJECTS  # _require_objects sees all files
    if file.trained and instances["annotations"] and not trained.file and trained.names:
        names = [category.get("name") for category in content["categories"]]
        trained.names = [name for name in names if name in trained.names]
        trained.file = file.path
    if any(not finding.harmless for finding in inspected.findings):
        return inspected
    for source in file.datasets:
        taken = _taken(instances, source, file.classes, panoptic)
        if not taken:
            text = f"The data set {source.key} takes none of the images in {file.path}"
            remedy = "fix its filter_cfg or indices, or annotate the images"
            inspected.findings.append(Finding("no images taken", [text], remedy))
        prefix = source.cfg.get("data_prefix") or {}
        if not finds_images_as_known(dataset_class(cfg, source.cfg)):
            continue
        folder = source.join(prefix.get("img") or "")
        sizes = {
            os.path.join(folder, image["file_name"]): (image["height"], image["width"])
            for image in taken
        }
        inspected.images.update(_checked(sizes, source, thorough))
        if panoptic and prefix.get("seg") and source.loads_segment_files:
            folder = source.join(prefix["seg"])
            names = [image["file_name"].replace(".jpg", ".png") for image in taken]
            paths = [os.path.join(folder, name) for name in names]
            inspected.findings += inspect_listing([path for path in paths if is_local(path)])
    if thorough:
        inspected.loaders = _loaders(cfg, file.datasets)
    else:
        inspected.findings += inspect_listing(list(inspected.images))
    return inspected


def _checked(
    images: dict[str, tuple[int, int] | None], source: Source, thorough: bool
) -> dict[str, tuple[int, int] | None]:
    """The images that have to be files here, or that are and can be opened.

    Where the pipeline reads other files, or from a backend, it alone knows which have to exist.
    """
    if not source.loads_files:
        return {path: size for path, size in images.items() if thorough and os.path.isfile(path)}
    return {path: size for path, size in images.items() if is_local(path)}


def _taken(
    content: dict, source: Source, classes: Sequence[str] | None, panoptic: bool
) -> list[dict]:
    """The images that a data set of MMDetection keeps of a file."""
    images = list({image["id"]: image for image in content["images"]}.values())
    filters = source.cfg.get("filter_cfg")
    if filters and not source.cfg.get("test_mode"):
        if filters.get("filter_empty_gt"):
            wanted = {
                category["id"]
                for category in content["categories"]
                if (category.get("isthing") if panoptic else True)
                and (classes is None or category["name"] in classes)
            }
            full = {
                entry["image_id"]
                for entry in content["annotations"]
                if entry["category_id"] in wanted and not (panoptic and entry.get("iscrowd"))
            }
            images = [image for image in images if image["id"] in full]
        least = filters.get("min_size", 0)
        images = [image for image in images if min(image["width"], image["height"]) >= least]
    return _pick(images, source.cfg.get("indices"))


def _pick(items: list, indices: int | Sequence[int] | None) -> list:
    """What MMEngine leaves of a data set's samples."""
    if indices is None:
        return items
    if isinstance(indices, int):
        return items[:indices] if indices >= 0 else items[indices:]
    return [items[i] for i in indices if -len(items) <= i < len(items)]


def _loaders(cfg: Config, sources: Sequence[Source]) -> list[PipelineLoader | None]:
    """What each pipeline loads images by, without repetitions."""
    pipelines: list[list | None] = []
    for source in sources:
        pipeline = [t for t in source.cfg.get("pipeline") or [] if isinstance(t, dict)]
        names = [type_name(transform) for transform in pipeline]
        loading = next((i for i, name in enumerate(names) if "Image" in name), len(names))
        by_default = not pipeline or loads_by_default(pipeline[0])
        beginning = None if by_default else pipeline[: loading + 1]
        if beginning not in pipelines:
            pipelines.append(beginning)
    with TRANSFORMS.switch_scope_and_registry(cfg.get("default_scope")) as registry:
        return [pipeline and PipelineLoader(pipeline, registry.build) for pipeline in pipelines]


def _inspect_truth(
    cfg: Config, phase: str, sources: list[Source], faulty: set[str]
) -> Iterator[InspectedSet]:
    """Compare the images of a phase's data sets with those of its evaluators.

    Args:
        cfg: The config.
        phase: The phase.
        sources: Its data sets and metrics.
        faulty: The annotation files in which nothing can be relied on.
    """
    datasets = [source for source in sources if source.is_dataset]
    for metric in sources:
        path = metric.join(metric.cfg.get("ann_file") or "")
        if type_name(metric.cfg) != "CocoMetric" or not os.path.isfile(path):
            continue
        tested = datasets
        if type_name(cfg.get(f"{phase}_evaluator")) == "MultiDatasetsEvaluator":
            # Each metric there is of the data set in the same place.
            place = f"{phase}_dataloader.dataset.datasets.{metric.key.rpartition('.')[2]}"
            tested = [source for source in datasets if source.key == place]
        files = [source.join(source.cfg.get("ann_file") or "") for source in tested]
        known = all(
            os.path.isfile(file) and _loader_name(cfg, source) == "CocoDataset.load_data_list"
            for file, source in zip(files, tested, strict=True)
        )
        real = [*map(os.path.realpath, files)]
        if not tested or not known or real == [os.path.realpath(path)]:
            continue
        if faulty.intersection([os.path.realpath(path), *real]):
            continue
        contents = []
        for source, file in zip(tested, files, strict=True):
            content, _ = read_coco(file)
            classes = _classes(dataset_class(cfg, source.cfg), source)
            taken = _taken(content, source, classes, panoptic=False)
            contents.append((file, dict(content, images=taken)))
        truth, _ = read_coco(path)
        if findings := compare_truth(path, truth, contents, metric.key):
            keys = [metric.key, *(source.key for source in tested)]
            yield InspectedSet(keys, path, findings)


def _loader_name(cfg: Config, source: Source) -> str:
    kind = dataset_class(cfg, source.cfg)
    return getattr(getattr(kind, "load_data_list", None), "__qualname__", "")


def _trained_classes(cfg: Config) -> Sequence[str] | None:
    """The classes of the first data set that a model is trained on, if it names them."""
    for source in phase_sources(cfg, "train"):
        kind = dataset_class(cfg, source.cfg)
        if hasattr(kind, "_load_metainfo"):
            classes = _classes(kind, source)
            return classes if _are_classes(classes) else None
    return None


def _are_classes(classes: object) -> bool:
    return isinstance(classes, list | tuple) and len(classes) > 0


def _inspect_classified(
    cfg: Config,
    keys: list[str],
    source: Source,
    kind: type,
    thorough: bool,
    trained_classes: Sequence[str] | None,
) -> InspectedSet:
    classes = _classes(kind, source)
    if findings := _inspect_class_names(source, classes, trained_classes):
        return InspectedSet(keys, source.root, findings)
    if kind.load_data_list.__qualname__.startswith("CIFAR"):
        inspected = InspectedSet(keys, source.root, _inspect_num_classes(cfg, source, classes))
        if thorough:
            inspected.findings += _inspect_cifar(kind, source)
        return inspected
    prefix = source.cfg.get("data_prefix") or ""
    prefix = prefix if isinstance(prefix, str) else prefix.get("img_path") or ""
    labelled = source.cfg.get("with_label", True)
    if split := source.cfg.get("split"):  # of ImageNet
        prefix = prefix or split
        labelled = labelled and split != "test"
    root = source.join(prefix)
    place = source.join(source.listed) if source.listed else root
    if not is_local(place) or not finds_images_as_known(kind):
        return InspectedSet(keys, place, [])
    if source.listed:
        num_classes = min(_num_classes(cfg).values(), default=None)
        names, findings = read_list(place, labelled, num_classes)
        names = _pick(names, source.cfg.get("indices"))
        images = {os.path.join(root, name): None for name in names}
        images = _checked(images, source, thorough)
        if not thorough:
            findings += inspect_listing(list(images))
        return InspectedSet(keys, place, findings, images, _loaders(cfg, [source]))

    extensions = [suffix.lower() for suffix in source.cfg.get("extensions") or IMAGE_SUFFIXES]
    findings = []
    if labelled:
        folders, findings = inspect_folders(root, extensions, classes)
        if not any(not finding.harmless for finding in findings):
            findings += _inspect_num_classes(cfg, source, classes or folders)
            findings += _compare_folders(cfg, root, folders)
    images = sorted(walk_images(root, extensions)) if thorough or not labelled else []
    if not images and not labelled:
        findings.append(
            Finding("no images", [f"The image folder {root} holds no images"], "put some there")
        )
    images = _pick(images, source.cfg.get("indices"))
    return InspectedSet(keys, root, findings, dict.fromkeys(images), _loaders(cfg, [source]))


def _inspect_cifar(kind: type, source: Source) -> list[Finding]:
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
            text = f"The file {path} differs from the published one (another MD5)"
            findings.append(Finding("damaged file", [text], "remove it and fetch it again"))
    return merge(findings)


def _compare_folders(cfg: Config, root: str, folders: list[str]) -> list[Finding]:
    """Labels follow the order of the folders: they must be those that the model is trained on."""
    for source in phase_sources(cfg, "train"):
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


def _classes(kind: type, source: Source) -> Sequence[str] | str | None:
    """The classes that a data set gets from its type and config; a string if it is given one."""
    try:
        classes = kind._load_metainfo(source.cfg.get("metainfo")).get("classes")
        given = source.cfg.get("classes")
        if isinstance(given, str):
            given = list_from_file(os.path.expanduser(given))
        return given or classes
    except Exception:  # it is reported, with its cause, when the data set is built
        return None


def _inspect_class_names(
    source: Source, classes: object, trained_classes: Sequence[str] | None
) -> list[Finding]:
    """Find names of classes that are invalid, or that training has under another number."""
    if classes is None:
        return []
    if not isinstance(classes, list | tuple):
        word = "string" if isinstance(classes, str) else type(classes).__name__
        text = f"{source.key}.metainfo.classes is the {word} {classes!r}, not a list"
        return [Finding("classes that are no list", [text], f"write ({classes!r},)")]
    marked = [name for name in classes if isinstance(name, str) and name.startswith("\ufeff")]
    found = select(
        "class name with a byte order mark",
        marked,
        lambda name: f"The class {name!r} of {source.key} begins with a byte order mark",
        "save the list of classes as UTF-8 without one",
    )
    if source.is_dataset and trained_classes:
        found += select(
            "classes in another order than in training",
            moved_classes(classes, trained_classes),
            lambda name: (
                f"{source.key} has the class {name!r} under the number {classes.index(name)}, and "
                f"training has it under {list(trained_classes).index(name)}"
            ),
            "name the classes in the same order in all data sets",
        )
    return found


def _inspect_num_classes(
    cfg: Config, source: Source, classes: Sequence[str] | str | None, kind: type | None = None
) -> list[Finding]:
    if not _are_classes(classes):
        return _inspect_class_names(source, classes, None)
    wanted = dict(num_classes=len(classes))
    total = f"{len(classes)} classes"
    if _is_panoptic(kind):
        things, stuff = map(len, _kinds_of_classes(kind, source))
        wanted = dict(num_classes=things, num_things_classes=things, num_stuff_classes=stuff)
        total += f" ({things} of things and {stuff} of stuff)"
    counts = _num_classes(cfg)
    unlike = {
        key: wanted[name]
        for key, count in counts.items()
        if count != wanted.get(name := key.rpartition(".")[2], count)
    }
    if not unlike:
        return []
    told = " and ".join(f"{key}={counts[key]}" for key in unlike)
    options = " ".join(f"{key}={count}" for key, count in unlike.items())
    text = f"The data set {source.key} has {total}, but the config has {told}"
    remedy = f"fix metainfo.classes, or set {options}"
    return [Finding("num_classes unlike classes", [text], remedy)]


# The parts of a model that distinguish classes, and what they call the numbers of these.
_HEADS = {
    **dict.fromkeys(("head", "bbox_head", "mask_head", "query_head"), ("num_classes",)),
    **dict.fromkeys(
        ("semantic_head", "panoptic_head", "panoptic_fusion_head"),
        ("num_things_classes", "num_stuff_classes"),
    ),
}


def _num_classes(cfg: Config) -> dict[str, int]:
    """The numbers of classes of a model's heads, by their keys, in whatever the model is nested.

    A mask head that is the same for all classes does not use its number, and that of a model which
    reads the names of the classes is the length of a text.
    """
    found = {}
    parts = list(placed_dicts(cfg.get("model"), "model"))
    reading = tuple(f"{key}." for key, part in parts if part.get("language_model"))
    for key, part in parts:
        if key.startswith(reading):
            continue
        # Heads in a list, as of the stages of a cascade, have the name of the list.
        kind = next(word for word in reversed(key.split(".")) if not word.isdecimal())
        for name in () if part.get("class_agnostic") else _HEADS.get(kind, ()):
            if isinstance(part.get(name), int):
                found[f"{key}.{name}"] = part[name]
    return found
