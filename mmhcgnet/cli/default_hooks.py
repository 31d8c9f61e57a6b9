"""What guards a run, for configs that do not name it themselves.

The package's own configs inherit these hooks and loops from ``configs/_base_/guards.py``, so that
they hold under MMDetection's and MMPretrain's scripts as well. The scripts here give them to any
other config.
"""

from __future__ import annotations

import inspect
import logging

from mmengine.config import Config
from mmengine.logging import print_log
from torch.utils.data import IterableDataset

from mmhcgnet.config_dicts import dataset_class, type_name
from mmhcgnet.paths import shipped_path


def set_guards(cfg: Config, replaced: list[str] | None = None) -> None:
    """Guard a run: loading, saving, resuming, data and losses.

    Hooks and loops of another type than MMEngine's own, and hooks that the config sets to ``None``,
    stay as they are. So does the loop over a data set that draws its samples itself.

    Args:
        cfg: The config, changed in place.
        replaced: Parts of the model, by the beginnings of their tensors' names, that start from
            scratch when ``load_from`` gives weights to the rest (``--replace``).
    """
    shipped = Config.fromfile(shipped_path("configs/_base_/guards.py"))
    guards, loops = shipped.guards, shipped.loops
    # A ConfigDict keeps copies: what it is given is not what it holds.
    cfg.default_hooks = cfg.get("default_hooks") or {}
    hooks = cfg.default_hooks
    custom = cfg.get("custom_hooks") or []
    for name, guard in guards.items():
        # MMEngine has a checkpoint hook of its own where there is none.
        if name == "checkpoint" or all(type_name(hook) != type_name(guard) for hook in custom):
            hooks.setdefault(name, guard)
    if type_name(hooks.get("checkpoint")) == "CheckpointHook":
        hooks.checkpoint["type"] = guards.checkpoint.type
    loop = cfg.get("train_cfg")
    if loop is not None:
        by_epoch = loop.pop("by_epoch", True)
        loop.setdefault("type", "EpochBasedTrainLoop" if by_epoch else "IterBasedTrainLoop")
        own = dict(EpochBasedTrainLoop=loops.epochs, IterBasedTrainLoop=loops.iterations)
        if not _draws_by_itself(cfg):
            loop["type"] = own.get(type_name(loop), loop)["type"]
        elif type_name(loop) in own:
            print_log(
                "The training data set draws its samples by itself: a resumed run begins with its "
                "first one again, and is not the same as one that was not interrupted.",
                "current",
                logging.WARNING,
            )
    if replaced:
        for hook in [*hooks.values(), *custom]:
            if type_name(hook) == type_name(guards.strict_load):
                hook["replaced"] = list(replaced)


def _draws_by_itself(cfg: Config) -> bool:
    dataset = (cfg.get("train_dataloader") or {}).get("dataset") or {}
    kind = dataset_class(cfg, dataset) if isinstance(dataset, dict) else type(dataset)
    return inspect.isclass(kind) and issubclass(kind, IterableDataset)
