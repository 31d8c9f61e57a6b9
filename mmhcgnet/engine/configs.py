"""Reading and completing configs, and what they say."""

from __future__ import annotations

import os
import re
import tempfile
import textwrap
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device

from mmhcgnet._compat import install_command
from mmhcgnet.config_dicts import nested_dicts, type_name
from mmhcgnet.errors import MissingFileError, UsageError, did_you_mean
from mmhcgnet.paths import shipped_configs

CONFIG_SUFFIXES = (".py", ".yaml", ".yml", ".json")
# A config that has a model or inherits one, in Python, YAML or JSON.
_HAS_MODEL = re.compile(
    r"""^(model|_base_)\s*[=:]|^with read_base\(\)|"(model|_base_)"\s*:""", re.MULTILINE
)

TOOLBOXES = dict(mmdet="MMDetection", mmpretrain="MMPretrain", mmseg="MMSegmentation")
# Keys by which a model holds another one, as for test-time augmentation or with few labels.
_HELD_MODELS = ("module", "detector", "model", "architecture", "student", "teacher")
# Seconds after which a silent worker of a dataloader ends the run.
WORKER_TIMEOUT = 300


def check_config_path(path: str) -> None:
    """Check that a config file exists and has a suffix that MMEngine reads.

    Raises:
        MissingFileError: If it does not exist; the closest existing configs are named.
        UsageError: If it is not a Python, YAML or JSON file.
    """
    if not os.path.exists(path):
        hint = did_you_mean(os.path.basename(path), (known := _known_configs(path)))
        for name, place in known.items():
            hint = hint.replace(name, place)
        raise MissingFileError(f"The config {path} does not exist{hint}.")
    if not os.path.isfile(path) or not path.endswith(CONFIG_SUFFIXES):
        raise UsageError(f"The config {path} must be a file that ends in .py, .yaml or .json.")


def config_in(folder: str) -> str | None:
    """Find the config of a model in a work directory, ``None`` if no file may be one.

    The newest one counts, but no other file with the suffix of a config, such as metrics, and the
    copy that a test leaves (``test_NAME``) only where there is no other. If none has a model, it is
    the one that comes next by these rules. No file is run.
    """

    def rank(path: Path) -> tuple[int, bool, float]:
        tests = len(re.match("(test_)*", path.name)[0])  # a tested test_a.py is test_test_a.py
        return tests, path.suffix != ".py", -path.stat().st_mtime

    files = [file for file in Path(folder).iterdir() if file.suffix in CONFIG_SUFFIXES]
    ranked = sorted(filter(Path.is_file, files), key=rank)
    texts = ((file, file.read_text(encoding="utf-8", errors="replace")) for file in ranked)
    chosen = next((file for file, text in texts if _HAS_MODEL.search(text)), None)
    return str(chosen or ranked[0]) if ranked else None


def _known_configs(path: str) -> dict[str, str]:
    """Runnable configs next to ``path``, in ``./configs`` and in the package, by file name."""
    siblings, below = Path(path).parent.glob("*"), Path("configs").rglob("*")
    known: dict[str, str] = {}
    for file in [*siblings, *below, *shipped_configs().values()]:
        if file.suffix in CONFIG_SUFFIXES and "_base_" not in file.parts:
            known.setdefault(file.name, str(file))
    return known


def check_sections(cfg: Config, *names: str) -> None:
    """Check that a config has the sections that a script needs.

    Raises:
        UsageError: If one is absent, or the toolbox that it is for is not installed.
    """
    missing = [name for name in names if cfg.get(name) is None]
    if missing:
        raise UsageError(
            f"The config {cfg.filename} has no {' and no '.join(missing)}: give a complete "
            "config, not one of the parts that others inherit as _base_."
        )
    package = toolbox(cfg)
    if package in TOOLBOXES and find_spec(package) is None:
        raise toolbox_missing(cfg.filename, package)


def toolbox(cfg: Config) -> str | None:
    """The package that a config is for: its ``default_scope``, else where its model comes from.

    Configs of MMEngine's new style, whose types are classes, have no scope.
    """
    scope = cfg.get("default_scope")
    return scope if scope in TOOLBOXES else next(_toolboxes_of(cfg.get("model")), scope)


def _toolboxes_of(model: Any) -> Iterator[str]:
    """The toolboxes of a model's type and its base classes, then of the models that it holds."""
    if not isinstance(model, dict):
        return
    kind = model.get("type", "")
    bases = [kind] if isinstance(kind, str) else getattr(kind, "__mro__", [kind])
    modules = [base if isinstance(base, str) else base.__module__ for base in bases]
    for name in (model.get("_scope_") or "", *modules):
        if (package := name.partition(".")[0]) in TOOLBOXES:
            yield package
    for key in _HELD_MODELS:
        yield from _toolboxes_of(model.get(key))


def toolbox_missing(config: str, package: str) -> UsageError:
    """Say how to install the package that a config needs, from the MM line that is there."""
    name = TOOLBOXES.get(package, package)
    return UsageError(
        f"The config {config} needs {name}, which is not installed: with PyTorch installed, run: "
        f"{install_command('mmseg' if package == 'mmseg' else None)}"
    )


def has_deployed_hcgnet(cfg: Config) -> bool | None:
    """Return whether a config builds an HCGNet in the deployed form; ``None`` if it builds none."""
    networks = [node for node in nested_dicts(cfg.model) if type_name(node) == "HCGNet"]
    return any(node.get("deploy") for node in networks) if networks else None


def ops_lack_the_gpu() -> bool:
    """Whether PyTorch would use a CUDA device that MMCV's ops were not compiled for."""
    if get_device() != "cuda" or find_spec("mmcv._ext") is None:
        return False
    from mmcv.ops import get_compiling_cuda_version

    return get_compiling_cuda_version() == "not available"


def load_config(path: str, cfg_options: list[str] | None = None) -> Config:
    """Read a config and merge options into it.

    Args:
        path: The config file, or a name as for :func:`shipped_config`.
        cfg_options: ``key=value`` strings as they were typed; see :func:`parse_value`.

    Raises:
        UsageError: If the file or one of its bases cannot be read, the package of a base is not
            there, or an option is not of the form ``key=value`` or does not fit the config.
    """
    path = shipped_config(path)
    check_config_path(path)
    try:
        cfg = Config.fromfile(path)
        _expand_home(cfg._cfg_dict)  # which also imports the classes that a new-style config names
    except Exception as error:  # a config is a program, which can fail in any way
        for package in TOOLBOXES:
            # MMEngine would have one install the upstream package, next to whichever line is there.
            said = (f"{package} is not installed", f"No module named '{package}'")
            if any(text in str(error) for text in said):
                raise toolbox_missing(path, package) from error
        place = _failed_place(error, path)
        raise UsageError(f"The config {place} cannot be read: {_one_line(error)}") from error
    options = parse_options(cfg_options or [])
    _expand_home(options)
    try:
        cfg.merge_from_dict(options)
    except Exception as error:  # what does not fit has no common type
        given = " ".join(cfg_options)
        raise UsageError(
            f"The options {given} do not fit the config {path}: {_one_line(error)}"
        ) from error
    return cfg


def shipped_config(name: str) -> str:
    """Return the path of a config named as ``PACKAGE::PATH`` or as in our model index.

    Any other path is returned as it is.

    Raises:
        UsageError: If the package is not installed, or there is no config of this name.
    """
    package, separator, path = name.partition("::")
    if not separator:
        if os.path.splitext(name)[1] or os.path.basename(name) != name or os.path.isfile(name):
            return name
        if name not in (known := shipped_configs()):
            if os.path.exists(name):  # unlike a work directory, which is named as its config
                return name
            hint = did_you_mean(name, known)
            raise UsageError(f"{name} is no config file and not the name of one{hint}.")
        return str(known[name])
    spec = find_spec(package) if package.isidentifier() else None
    if spec is None and package in TOOLBOXES:
        raise toolbox_missing(name, package)
    if spec is None or spec.origin is None:
        raise UsageError(f"The config {name} needs the package {package}, which is not installed.")
    return str(Path(spec.origin).parent / ".mim/configs" / path)


def base_of(name: str, child: str) -> str:
    """Return what a config writes as ``_base_`` to inherit another one.

    Args:
        name: A path, or ``PACKAGE::PATH``, which stays unless MMEngine cannot read it: it looks for
            ``mmseg`` under one of the names that it is installed by, and wants no dot in a folder.
        child: The path of the config that inherits.
    """
    path = shipped_config(name)
    if path == name:
        return Path(os.path.relpath(path, os.path.dirname(child) or ".")).as_posix()
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "probe.py"
        probe.write_text(f"_base_ = {name!r}\n", encoding="utf-8")
        try:
            Config.fromfile(probe)
        except Exception:  # each of these has another
            return Path(path).as_posix()
    return name


def parse_options(options: list[str]) -> dict[str, Any]:
    """Read ``key=value`` strings as they were typed; see :func:`parse_value`.

    Raises:
        UsageError: If one is not of this form.
    """
    parsed = {}
    for option in options:
        key, equals, text = option.partition("=")
        if not equals:
            raise UsageError(f"Options have the form key=value, got {option!r}.")
        try:
            parsed[key.strip()] = parse_value(text)
        except ValueError as error:
            raise UsageError(
                f"The brackets or quotes in the option {option} do not match."
            ) from error
    return parsed


def parse_value(text: str) -> Any:
    """Turn the value of an option into what a config would hold.

    Numbers, ``True``, ``False`` and ``None`` are what they say, ``[...]``, ``(...)`` and values
    separated by commas are lists and tuples, and all else is a string, which keeps its spaces.
    What stands in quotes is a string as it is, unless it is brackets.

    Raises:
        ValueError: If brackets or quotes do not match.
    """
    text = text.strip()
    if len(text) > 1 and text[0] in "\"'" and text[-1] == text[0] and text[0] not in text[1:-1]:
        inner = text[1:-1]
        return parse_value(inner) if inner.strip()[:1] in ("[", "(") else inner
    for begin, end, kind in (("[", "]", list), ("(", ")", tuple)):
        if text.startswith(begin) and text.endswith(end):
            return kind(map(parse_value, _split(text[1:-1])))
    parts = _split(text)
    return [parse_value(part) for part in parts] if "," in text and parts != [text] else _word(text)


def _split(text: str) -> list[str]:
    """Split at the commas that stand in no brackets or quotes."""
    parts, depth, quote, start = [], 0, "", 0
    for i, character in enumerate(text):
        if quote:
            quote = "" if character == quote else quote
        # Within a word, as in don't, it is an apostrophe.
        elif character in "\"'" and not text[start:i].strip(" (["):
            quote = character
        elif character in "[(":
            depth += 1
        elif character in "])":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    if depth or quote:
        raise ValueError(text)
    return [*parts, text[start:]] if text[start:].strip() else parts


def _word(text: str) -> Any:
    constants = {"none": None, "true": True, "false": False}
    if text in ("None", "True", "False") or text.lower() in ("true", "false"):
        return constants[text.lower()]
    for kind in (int, float):
        with suppress(ValueError):
            # Python would read 2024_01, a folder's name, as a number.
            return kind(text) if "_" not in text else text
    return text


def _expand_home(node: Any) -> None:
    """Put the home folder in place of a ``~`` that paths begin with.

    MMEngine does so for some paths and not for others, such as those of evaluators.
    """
    for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
        if isinstance(value, str) and value.startswith("~/") and not isinstance(node, tuple):
            node[key] = os.path.expanduser(value)
        elif isinstance(value, dict | list | tuple):
            _expand_home(value)


def _failed_place(error: Exception, path: str) -> str:
    """Name the file, ``path`` or one of its bases, and if possible the line that cannot be read."""
    line = error.lineno if isinstance(error, SyntaxError) else None
    for frame, number in traceback.walk_tb(error.__traceback__):
        # MMEngine's functions call by this name the file that they are at, or a copy of it.
        if frame.f_globals.get("__name__") == Config.__module__:
            name = frame.f_locals.get("filename")
            path = name if isinstance(name, str) and os.path.isfile(name) else path
        elif frame.f_code.co_name == "<module>":  # a statement of the file itself
            line = number
            break
    return f"{path}, line {line}," if line else path


def _one_line(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return textwrap.shorten(f"{type(error).__name__}: {text}", 400, placeholder=" …")


def tested_dataset(cfg: Config) -> dict[str, Any]:
    """The config of the data set that a test reads, inside of wrappers; empty without one."""
    dataset = (cfg.get("test_dataloader") or {}).get("dataset") or {}
    while "pipeline" not in dataset and ("dataset" in dataset or "datasets" in dataset):
        dataset = dataset["dataset"] if "dataset" in dataset else dataset["datasets"][0]
    return dataset


def tested_pipeline(cfg: Config) -> list[dict]:
    """The transforms of the images that a test reads; empty without any."""
    return tested_dataset(cfg).get("pipeline") or cfg.get("test_pipeline") or []


def channel_order(cfg: Config) -> str:
    """The order of the channels that a test gives to the data preprocessor: bgr, or else rgb."""
    pipeline = tested_pipeline(cfg)
    return "bgr" if not pipeline or loads_files(pipeline) else "rgb"


def loads_files(pipeline: Sequence[dict]) -> bool:
    """Whether a pipeline reads image files, as BGR; sets that hold images, as CIFAR, have RGB."""
    return any(type_name(step).startswith("LoadImage") for step in pipeline)


def set_dataloader_defaults(
    cfg: Config, pin_memory: bool = True, persistent_workers: bool = True
) -> None:
    """Complete the dataloaders, and unset what is not wanted.

    Classification configs rely on MMPretrain's tools for defaults that MMEngine does not have.
    Workers persist only where there are any; PyTorch refuses the combination. The same holds for
    the time in which one has to answer: five minutes unless the config has a ``timeout``.
    """
    for name in ("train_dataloader", "val_dataloader", "test_dataloader"):
        loader = cfg.get(name)
        if loader is None:
            continue
        if toolbox(cfg) == "mmpretrain":
            loader.setdefault("pin_memory", torch.cuda.is_available())
            loader.setdefault("persistent_workers", True)
            loader.setdefault("collate_fn", dict(type="default_collate"))
        if not pin_memory:
            loader.pin_memory = False
        if not persistent_workers or not loader.get("num_workers"):
            loader.persistent_workers = False
        if loader.get("num_workers"):
            loader.setdefault("timeout", WORKER_TIMEOUT)
        else:
            loader.pop("timeout", None)
