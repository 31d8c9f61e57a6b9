"""The files that the data sets and metrics of a config read, and whether they are there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from mmengine.config import Config

from mmhcgnet.config_dicts import dataset_class, nested_dicts, type_name
from mmhcgnet.errors import MissingFileError
from mmhcgnet.paths import is_local

from .images import has_local_backend

# MMPretrain's sets that fetch themselves unless download=False.
_DOWNLOADED = ("CIFAR10", "CIFAR100", "MNIST", "FashionMNIST")
_TOOLBOXES = ("mmengine", "mmdet", "mmpretrain", "mmseg")
# What a data set overrides to find its images in a way of its own.
_FINDING = (
    "_join_prefix",
    "load_data_list",
    "parse_data_info",
    "filter_data",
    "_find_samples",
    "is_valid_file",
    "img_prefix",
)


@dataclass(frozen=True)
class Source:
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
        if not prefix and type_name(self.cfg) in ("ImageNet", "ImageNet21k"):
            found[f"{self.key}.split"] = self.cfg.get("split")
        return {key: path for key, path in found.items() if isinstance(path, str) and path}

    def join(self, path: str) -> str:
        """A path of the config as the data set reads it."""
        return os.path.join(self.root, os.path.expanduser(path)) if is_local(path) else path

    @property
    def listed(self) -> str:
        """The file that lists its images, ``""`` if it searches a folder for them."""
        listed = self.cfg.get("ann_file") or ""
        if (split := self.cfg.get("split")) and not listed:  # of ImageNet
            by_default = os.path.join("meta", f"{split}.txt")
            listed = by_default if os.path.exists(self.join(by_default)) else ""
        return listed

    @property
    def loads_files(self) -> bool:
        """Whether its pipeline reads images as files of this file system, by their own paths."""
        pipeline = self.cfg.get("pipeline")
        return not pipeline or _reads_files(pipeline[0], "LoadImageFromFile")

    @property
    def loads_segment_files(self) -> bool:
        """As :attr:`loads_files`, of the segments of panoptic sets."""
        pipeline = self.cfg.get("pipeline")
        return not pipeline or any(
            _reads_files(node, "LoadPanopticAnnotations") for node in nested_dicts(pipeline)
        )

    @property
    def is_dataset(self) -> bool:
        """Whether it is a data set and not a metric."""
        return self.key.split(".")[0].endswith("dataloader")

    @property
    def is_here(self) -> bool:
        """Whether its files are of this file system."""
        return has_local_backend(self.cfg) and is_local(self.root)

    @property
    def is_fetched(self) -> bool:
        """Whether the run fetches its files if they do not exist."""
        return self.cfg.get("download", type_name(self.cfg) in _DOWNLOADED)


def check_files(cfg: Config, *phases: str) -> None:
    """Check that the files and folders of the data sets and evaluators are there.

    Raises:
        MissingFileError: If one is not. The message names the expected layout, and the settings
            which move all of it elsewhere.
    """
    sources = [source for phase in phases for source in phase_sources(cfg, phase)]
    sources = [source for source in sources if not source.is_fetched]
    for source in sources:
        files = source.files()
        needed = {key: path for key, path in files.items() if is_local(source.join(path))}
        if not _needs_image_folder(cfg, source):
            needed = {key: path for key, path in needed.items() if key.endswith("ann_file")}
        in_root = any(not os.path.isabs(os.path.expanduser(path)) for path in needed.values())
        if source.root and not os.path.isdir(source.root) and (in_root or not files):
            raise _missing("data set", source.root, f"{source.key}.data_root", source, sources)
        for key, path in needed.items():
            path = source.join(path)
            if not os.path.exists(path):
                what = "annotation file" if key.endswith("ann_file") else "image folder"
                raise _missing(what, path, key, source, sources)


def _needs_image_folder(cfg: Config, source: Source) -> bool:
    # A data set without a list searches the folder, whatever reads the images afterwards.
    searched = source.is_dataset and (source.loads_files or not source.listed)
    return searched and finds_images_as_known(dataset_class(cfg, source.cfg))


def finds_images_as_known(kind: type | None) -> bool:
    """Whether a data set finds its images by the toolboxes' code and not by that of a subclass."""
    for name in _FINDING:
        owner = next((base for base in getattr(kind, "__mro__", ()) if name in vars(base)), None)
        if owner and owner.__module__.partition(".")[0] not in _TOOLBOXES:
            return False
    return True


def _reads_files(transform: dict, name: str) -> bool:
    return type_name(transform) == name and has_local_backend(transform)


def phase_sources(cfg: Config, phase: str) -> list[Source]:
    """The data sets and metrics of ``"train"``, ``"val"`` or ``"test"`` that read local files."""
    return [source for source in all_sources(cfg, phase) if source.is_here]


def all_sources(cfg: Config, phase: str) -> list[Source]:
    """As :func:`phase_sources`, with those that read from elsewhere."""
    sources: list[Source] = []
    for section in ("dataloader", "evaluator"):
        sources += _sources(cfg.get(f"{phase}_{section}"), f"{phase}_{section}")
    return sources


def _sources(node: object, key: str) -> Iterator[Source]:
    """Walk dataloaders, data set wrappers and lists down to what reads files."""
    if isinstance(node, list | tuple):
        for i, child in enumerate(node):
            yield from _sources(child, f"{key}.{i}")
    elif isinstance(node, dict):
        wrapped = [name for name in ("dataset", "datasets", "metrics") if node.get(name)]
        for name in wrapped:
            yield from _sources(node[name], f"{key}.{name}")
        if not wrapped:
            yield Source(key, node)


def _missing(
    what: str, path: str, key: str, culprit: Source, sources: list[Source]
) -> MissingFileError:
    # A metric's file has no data_root of its own, but mostly lies in that of a data set.
    roots = [culprit.root] if culprit.root else [s.root for s in sources if s.root]
    root = next((r for r in roots if _relative(path, r) is not None), "")
    place = "" if os.path.isabs(path) else f" in {os.getcwd()}"
    begin = f"The {what} {path} ({key}) does not exist{place}: "
    if not root:
        return MissingFileError(f"{begin}put it there, or set {key}=PATH.")

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
    inside = [part for part in layout if is_local(part) and not os.path.isabs(part)]
    parts = ",".join(dict.fromkeys(inside))
    expected = f"expected is {root.rstrip('/')}/{{{parts}}}; " if parts else ""
    make = "put or link it there"
    if "shapes" in PurePath(root).parts:
        flag = " --classification" if PurePath(root).name == "classification" else ""
        make = f"make it with `python tools/dataset_converters/make_shapes.py{flag}`"
    return MissingFileError(
        f"{begin}{expected}{make}, or name the folder DIR where it is: {' '.join(options)}"
    )


def _relative(path: str, root: str) -> str | None:
    path, root = PurePath(path), PurePath(root)
    return str(path.relative_to(root)) if path.is_relative_to(root) else None
