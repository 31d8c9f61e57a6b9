"""What guards a run, for configs that do not name it themselves.

The package's own configs name these hooks and loops (``configs/_base_/guards.py``), so that they
hold under MMDetection's and MMPretrain's scripts as well. The scripts here give them to any other
config.
"""

from __future__ import annotations

from mmengine.config import Config

from mmhcgnet.config_dicts import type_name

# Under these names in default_hooks.
_HOOKS = dict(
    strict_load="StrictLoadHook",
    data_guard="DataGuardHook",
    non_finite="NonFiniteHook",
    interrupt="InterruptHook",
    class_order="ClassOrderHook",
    untrained_norm="UntrainedNormHook",
    log_guard="LogGuardHook",
    same_buffers="SameBuffersHook",
)
# MMEngine's own types and ours that do the same and more.
_CHECKPOINT = dict(CheckpointHook="mmhcgnet.SafeCheckpointHook")
_LOOPS = dict(
    EpochBasedTrainLoop="mmhcgnet.ResumableEpochLoop",
    IterBasedTrainLoop="mmhcgnet.ResumableIterLoop",
)


def set_guards(cfg: Config, replaced: list[str] | None = None) -> None:
    """Guard a run: loading, saving, resuming, data and losses.

    Hooks and loops of another type than MMEngine's own, and hooks that the config sets to ``None``,
    stay as they are.

    Args:
        cfg: The config, changed in place.
        replaced: Parts of the model, by the beginnings of their tensors' names, that start from
            scratch when ``load_from`` gives weights to the rest (``--replace``).
    """
    # A ConfigDict keeps copies: what it is given is not what it holds.
    cfg.default_hooks = cfg.get("default_hooks") or {}
    hooks = cfg.default_hooks
    custom = cfg.get("custom_hooks") or []
    for name, kind in _HOOKS.items():
        if all(type_name(hook) != kind for hook in custom):
            hooks.setdefault(name, dict(type=f"mmhcgnet.{kind}"))
    hooks.setdefault("checkpoint", dict(type="CheckpointHook"))
    checkpoint = hooks.checkpoint
    if checkpoint is not None:
        checkpoint["type"] = _CHECKPOINT.get(type_name(checkpoint), checkpoint["type"])
    loop = cfg.get("train_cfg")
    if loop is not None:
        by_epoch = loop.pop("by_epoch", True)
        loop.setdefault("type", "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop")
        loop["type"] = _LOOPS.get(type_name(loop), loop["type"])
    if replaced:
        for hook in [*hooks.values(), *custom]:
            if type_name(hook) == _HOOKS["strict_load"]:
                hook["replaced"] = list(replaced)
