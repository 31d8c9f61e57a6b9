"""Resuming, which needs the checkpoint alone and no pretrained weights."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Iterable
from pathlib import Path

from mmengine.config import Config
from mmengine.logging import print_log
from torch import nn

from mmhcgnet.engine.checkpoints import read_checkpoint, read_outline
from mmhcgnet.engine.checks import check_checkpoint_path
from mmhcgnet.engine.hooks.safe_checkpoint_hook import UNIX_TIME
from mmhcgnet.errors import MissingFileError, UsageError
from mmhcgnet.paths import is_local

from .launch import launched_rank


def set_resume(cfg: Config, resume: str | None) -> bool:
    """Point ``cfg.load_from`` and ``cfg.resume`` at the checkpoint to resume from.

    Args:
        cfg: The config, its ``work_dir`` set; changed in place.
        resume: ``"auto"`` for the newest whole checkpoint of the run, a path, or ``None`` for
            what the config itself says.

    Returns:
        Whether there is a checkpoint to resume from. Without one the run starts anew, from the
        config's own ``load_from`` if it has any.

    Raises:
        MissingFileError: If the checkpoint is named but not there.
        UsageError: If the run has checkpoints and none to resume from.
    """
    if resume is None and cfg.get("resume"):
        resume = cfg.get("load_from") or "auto"
    found = _find(cfg) if resume == "auto" else resume
    if found:
        cfg.load_from = found
    if cfg.get("load_from"):
        check_checkpoint_path(cfg.load_from)
    cfg.resume = bool(found)
    return cfg.resume


def _find(cfg: Config) -> str | None:
    folders, patterns = [cfg.work_dir], {"*.pth"}
    hook = cfg.get("default_hooks", {}).get("checkpoint") or {}
    if hook.get("filename_tmpl"):
        patterns.add(hook["filename_tmpl"].format("*"))
    if hook.get("out_dir"):
        # As CheckpointHook puts it together.
        name = os.path.basename(cfg.work_dir.rstrip(os.sep))
        folders.append(os.path.join(hook["out_dir"], name))
    found = find_resume_checkpoint(folders, patterns, launched_rank(cfg.get("launcher", "none")))
    pointer = Path(cfg.work_dir, "last_checkpoint")
    pointed = pointer.read_text().strip() if pointer.is_file() else ""
    if found or not pointed:
        return found
    # It counts where nothing else does: in another folder, or of a backend that is not searched.
    if is_local(pointed) and not os.path.exists(pointed):
        raise MissingFileError(
            f"{pointer} names {pointed}, which does not exist: name the checkpoint with --resume "
            "PATH, or give another --work-dir to start anew."
        )
    return pointed


def find_resume_checkpoint(
    folders: Iterable[str], patterns: Iterable[str] = ("*.pth",), rank: int = 0
) -> str | None:
    """Find the newest checkpoint that is whole and holds all that resuming takes.

    What a checkpoint says of itself decides, its time and then its iteration: neither the pointer
    ``last_checkpoint``, which may be lost or stale, nor the file's own date, which copies do not
    keep. Why a newer one is passed over is printed. The best ones (``best_*``) hold no optimiser
    and do not count.

    Args:
        folders: Where to look.
        patterns: The names to look for, with wildcards.
        rank: The rank of this process; all find the same and 0 prints.

    Returns:
        Its path, or ``None`` if there is no checkpoint at all.

    Raises:
        UsageError: If there are some and none can be resumed from: no run should start over
            where another one has left its work.
    """
    paths = sorted(
        {path for folder in folders for pattern in patterns for path in Path(folder).glob(pattern)}
    )
    skipped: dict[str, str] = {}
    ages: dict[str, tuple[float, int]] = {}
    for path in map(str, paths):
        if not os.path.basename(path).startswith("best_"):
            try:
                ages[path] = _age(path)
            except UsageError as error:
                skipped[path] = str(error)
    found = None
    for path in sorted(ages, key=ages.__getitem__, reverse=True):
        try:
            read_checkpoint(path)  # in full, with its checksum
        except UsageError as error:
            skipped[path] = str(error)
        else:
            found = path
            break
    if found is None and skipped:
        first, *others = skipped.values()
        also = f" Nor can {len(others)} more." if others else ""
        raise UsageError(
            f"There are checkpoints and none to resume from: {first}{also} Name one with --resume "
            "PATH, or give another --work-dir to start anew."
        )
    if rank == 0:
        for reason in skipped.values():
            print_log(f"Passed over: {reason}", level=logging.WARNING)
        if found:
            print_log(f"Resuming from {found}, iteration {ages[found][1]}.")
    return found


def _age(path: str) -> tuple[float, int]:
    """The time, in seconds of Unix, and the iteration of a checkpoint as it says itself.

    Raises:
        UsageError: If it cannot be resumed from.
    """
    outline = read_outline(path)
    meta = outline.get("meta")
    iteration = meta.get("iter") if isinstance(meta, dict) else None
    if "optimizer" not in outline or not isinstance(iteration, int):
        raise UsageError(f"The checkpoint {path} holds no optimiser or no iteration.")
    saved = meta.get(UNIX_TIME)
    if not isinstance(saved, float):
        # MMEngine's own hook notes the local time alone, which may be another machine's.
        try:
            saved = time.mktime(time.strptime(str(meta.get("time")), "%Y%m%d_%H%M%S"))
        except (ValueError, OverflowError):
            saved = 0.0
    return saved, iteration


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
        kept = [cfg for cfg in entries if cfg["type"] not in ("Pretrained", "PretrainedInit")]
        if len(kept) < len(entries):
            module.init_cfg = kept or None
