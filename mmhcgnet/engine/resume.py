"""Resuming, which needs the checkpoint alone and no pretrained weights."""

from __future__ import annotations

from mmengine.config import Config
from mmengine.runner import find_latest_checkpoint
from torch import nn

from .checks import check_checkpoint_path, is_local
from .errors import MissingFileError


def set_resume(cfg: Config, resume: str | None) -> bool:
    """Point ``cfg.load_from`` and ``cfg.resume`` at the checkpoint to resume from.

    Args:
        cfg: The config, its ``work_dir`` set; changed in place.
        resume: ``"auto"`` for the latest checkpoint of the work directory, a path, or ``None``
            for what the config itself says.

    Returns:
        Whether there is a checkpoint to resume from. Without one the run starts anew, from the
        config's own ``load_from`` if it has any.

    Raises:
        MissingFileError: If the checkpoint is named but not there.
    """
    if resume is None and cfg.get("resume"):
        resume = cfg.get("load_from") or "auto"
    found = find_latest_checkpoint(cfg.work_dir) if resume == "auto" else resume
    if found and resume == "auto" and is_local(found):
        try:
            check_checkpoint_path(found)
        except MissingFileError as error:
            raise MissingFileError(
                f"{cfg.work_dir}/last_checkpoint names {found}, which does not exist: name the "
                "checkpoint with --resume PATH, or give another --work-dir to start anew."
            ) from error
    if found:
        cfg.load_from = found
    if cfg.get("load_from"):
        check_checkpoint_path(cfg.load_from)
    cfg.resume = bool(found)
    return cfg.resume


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
