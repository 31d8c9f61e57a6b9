"""Resuming, which needs the checkpoint alone and no pretrained weights."""

from __future__ import annotations

import os
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmhcgnet.checkpoints.checkpoint import find_file
from mmhcgnet.checkpoints.newest import EVERY, POINTER, find_newest, name_pattern
from mmhcgnet.checkpoints.sources import hand_over
from mmhcgnet.config_dicts import type_name
from mmhcgnet.errors import MissingFileError, UsageError, readable
from mmhcgnet.paths import is_local

from .launch import launched_rank


def set_resume(cfg: Config, resume: str | None) -> bool:
    """Point ``cfg.load_from`` and ``cfg.resume`` at the checkpoint to resume from.

    Args:
        cfg: The config, its ``work_dir`` set; changed in place.
        resume: ``"auto"`` for the newest whole checkpoint of the run, a path, or ``None`` for
            what the config itself says.

    Returns:
        Whether there is a checkpoint to resume from. Without one the run starts over, from the
        config's own ``load_from`` if it has any.

    Raises:
        MissingFileError: If the named checkpoint does not exist.
        UsageError: If the run has checkpoints and none to resume from, or the path is empty.
    """
    if resume is not None and not resume.strip():
        raise UsageError(
            "--resume got an empty path, as of a variable that is not set: name a checkpoint, or "
            "pass --resume alone for the newest one of the work directory."
        )
    if resume is None and cfg.get("resume"):
        resume = cfg.get("load_from") or "auto"
    found = _find(cfg) if resume == "auto" else _follow(resume)
    if found:
        cfg.load_from = found
    if cfg.get("load_from") and is_local(cfg.load_from):
        find_file(cfg.load_from)
    cfg.resume = bool(found)
    return cfg.resume


def _find(cfg: Config) -> str | None:
    folders, patterns = [cfg.work_dir], {EVERY}
    hook = (cfg.get("default_hooks") or {}).get("checkpoint") or {}
    if hook.get("filename_tmpl"):
        patterns.add(name_pattern(hook["filename_tmpl"]))
    if hook.get("out_dir"):
        # As CheckpointHook puts it together.
        name = os.path.basename(cfg.work_dir.rstrip(os.sep))
        folders.append(os.path.join(hook["out_dir"], name))
    log = launched_rank(cfg.get("launcher", "none")) == 0  # all processes find the same
    try:
        newest = find_newest(folders, patterns, log)
    except UsageError as error:
        raise UsageError(
            f"{error} Name one with --resume PATH, or give another --work-dir to start over."
        ) from error
    if newest:
        return hand_over(newest).path
    # It counts where nothing else does: in another folder, or of a backend that is not searched.
    pointer = os.path.join(cfg.work_dir, POINTER)
    pointed = _follow(pointer) if os.path.isfile(pointer) else None
    if pointed and log:
        print_log(f"Resuming from {readable(pointed)}, which {pointer} names.")
    return pointed


def _follow(path: str | None) -> str | None:
    """The checkpoint that a ``last_checkpoint`` points at; another path as it is."""
    pointer = Path(path or "")
    if pointer.name != POINTER or not pointer.is_file():
        return path
    try:
        pointed = os.fsdecode(pointer.read_bytes()).strip()
        if not os.path.exists(pointed):
            pointed.encode()  # a name that is no text may be that of a file, or of nothing
    except ValueError as error:
        raise UsageError(f"{pointer} cannot be read: {error}; delete it.") from error
    if pointed and is_local(pointed) and not os.path.exists(pointed):
        # The folder may have been moved.
        beside = pointer.with_name(os.path.basename(pointed))
        if beside.is_file():
            return str(beside)
        raise MissingFileError(
            f"{pointer} names {pointed}, which does not exist: name the checkpoint with --resume "
            "PATH, or give another --work-dir to start over."
        )
    return pointed or None


def drop_pretrained(model: nn.Module) -> None:
    """Take the ``Pretrained`` initialisations out of a model that a checkpoint will fill.

    MMEngine initialises a model before it loads the checkpoint to resume from. The config stays
    as it is, so that the copy in the work directory still starts a new run as meant.

    Args:
        model: The model, wrapped for distributed training or not.
    """
    for module in model.modules():
        init_cfg = getattr(module, "init_cfg", None)
        if not init_cfg:
            continue
        entries = init_cfg if isinstance(init_cfg, list) else [init_cfg]
        kept = [cfg for cfg in entries if type_name(cfg) != "Pretrained"]
        if len(kept) < len(entries):
            module.init_cfg = kept or None
