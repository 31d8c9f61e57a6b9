"""Settings that a resumed run takes from its checkpoint, where the config has others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

from mmengine.optim import OptimWrapperDict
from mmengine.runner import Runner

# What a scheduler counts while it runs, and what follows from the optimizer's settings.
_COUNTED = {"last_step", "base_values", "verbose", "best", "num_bad_epochs", "cooldown_counter"}
_OF_OPTIMIZER = ("lr", "momentum", "weight_decay", "betas", "eps", "alpha", "nesterov")
_Pair = tuple[str, Any, Any]


def overruled_settings(runner: Runner, checkpoint: dict[str, Any]) -> list[str]:
    """Name what the config sets otherwise than the checkpoint, whose settings MMEngine takes.

    Args:
        runner: The runner, with optimizers and schedulers as its config makes them.
        checkpoint: What it is about to resume from.

    Returns:
        For each setting its name and both values, such as ``"optimizer lr 0.1 (config: 0.2)"``.
    """
    pairs = [*_optimizer_pairs(runner, checkpoint), *_scheduler_pairs(runner, checkpoint)]
    return [
        f"{name} {_told(saved)} (config: {_told(own)})"
        for name, saved, own in dict.fromkeys((n, repr(s), repr(o)) for n, s, o in pairs)
    ]


def _optimizer_pairs(runner: Runner, checkpoint: dict[str, Any]) -> Iterator[_Pair]:
    """The settings of the groups of parameters in which the two differ."""
    wrappers, saved = runner.optim_wrapper, checkpoint["optimizer"]
    if not isinstance(wrappers, OptimWrapperDict):
        wrappers, saved = {"": wrappers}, {"": saved}
    for key, wrapper in wrappers.items():
        groups = zip(saved[key]["param_groups"], wrapper.optimizer.param_groups, strict=False)
        for former, own in groups:
            for name in _OF_OPTIMIZER:
                # Schedulers change the value itself.
                values = [group.get(f"initial_{name}", group.get(name)) for group in (former, own)]
                if name in former and name in own and _differ(*values):
                    yield f"optimizer {key + ' ' if key else ''}{name}", *values


def _scheduler_pairs(runner: Runner, checkpoint: dict[str, Any]) -> Iterator[_Pair]:
    own, saved = runner.param_schedulers, checkpoint.get("param_schedulers")
    if not isinstance(own, dict):
        own, saved = {"": own}, {"": saved}
    for key, schedulers in own.items():
        former = (saved or {}).get(key) or []
        place = f"param_scheduler{'.' + key if key else ''}"
        if len(former) != len(schedulers or []):
            yield f"number of {place}", len(former), len(schedulers or [])
        for i, (state, scheduler) in enumerate(zip(former, schedulers or [], strict=False)):
            settings = scheduler.state_dict()
            for name in sorted({*state, *settings} - _COUNTED):
                values = state.get(name, "none"), settings.get(name, "none")
                if not name.startswith("_") and _is_plain(values) and _differ(*values):
                    yield f"{place}.{i} {name}", *map(_as_list, values)


def _is_plain(values: tuple) -> bool:
    return all(isinstance(v, int | float | str | list | tuple | Counter | None) for v in values)


def _as_list(value: Any) -> Any:
    return sorted(value.elements()) if isinstance(value, Counter) else value


def _differ(former: Any, own: Any) -> bool:
    if isinstance(former, int | float) and isinstance(own, int | float):
        return abs(former - own) > 1e-9 * max(abs(former), abs(own))
    if isinstance(former, list | tuple) and isinstance(own, list | tuple):
        return len(former) != len(own) or any(map(_differ, former, own))
    return former != own


def _told(text: str) -> str:
    return text if len(text) < 60 else f"{text[:56]} ..."
