"""The state that a resumed run takes from its checkpoint: whether it fits, what it overrules."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import chain
from math import isfinite
from typing import Any

from mmengine.logging import HistoryBuffer
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.errors import UsageError

# What a scheduler counts while it runs, and what follows from the optimizer's settings.
_COUNTED = {"last_step", "base_values", "verbose", "best", "num_bad_epochs", "cooldown_counter"}
_OF_OPTIMIZER = ("lr", "momentum", "weight_decay", "betas", "eps", "alpha", "nesterov")
_Pair = tuple[str, Any, Any]
# Settings that tell kinds of optimisers apart.
_SETTINGS = {"alpha", "betas", "momentum", "rho"}


def check_training_state(runner: Runner, opened: Checkpoint) -> None:
    """Check that a training can resume from a checkpoint."""
    content, meta, path = opened.content, opened.meta, opened.path
    missing = opened.lacks
    if runner.param_schedulers and not content.get("param_schedulers"):
        missing.append("param_schedulers")
    if missing:
        raise UsageError(
            f"Cannot resume from {path}: it has no {', '.join(missing)}. To start a new run from "
            "its weights, use load_from."
        )
    if problem := _compare_schedulers(runner.param_schedulers, content.get("param_schedulers")):
        raise UsageError(
            f"The schedules in the checkpoint {path} are not the config's: {problem}; resume with "
            "the param_scheduler of that run, or start over with load_from."
        )
    hub, seed, dataset = content["message_hub"], meta.get("seed"), meta.get("dataset_meta")
    histories = hub["log_scalars"].values() if isinstance(hub["log_scalars"], dict) else [None]
    wrong = [
        name
        for name, right in {
            "seed": seed is None or type(seed) is int and 0 <= seed < 2**32,
            "dataset_meta": dataset is None or isinstance(dataset, dict),
            "log_scalars": all(isinstance(history, HistoryBuffer) for history in histories),
            "runtime_info": isinstance(hub["runtime_info"], dict),
            "resumed_keys": isinstance(hub["resumed_keys"], dict),
        }.items()
        if not right
    ]
    if wrong:
        raise UsageError(
            f"Cannot resume from {path}: its {', '.join(wrong)} is not what a training saves. To "
            "start a new run from its weights, use load_from."
        )
    wrappers, states = _by_name(runner.optim_wrapper, content["optimizer"])
    for name, wrapper in wrappers.items():
        saved = states.get(name) if isinstance(states, dict) else None
        if isinstance(wrapper, OptimWrapper) and (problem := _compare_optimizer(wrapper, saved)):
            raise UsageError(
                f"The optimizer state in the checkpoint {path} does not fit the config's: "
                f"{problem}; resume with the config of that run, or start over with load_from."
            )


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


def _by_name(own: Any, saved: Any) -> tuple[Any, Any]:
    """What belongs to several optimizers, by their names; to a single one, by ``""``."""
    return (own, saved) if isinstance(own, dict | OptimWrapperDict) else ({"": own}, {"": saved})


def _optimizer_pairs(runner: Runner, checkpoint: dict[str, Any]) -> Iterator[_Pair]:
    """The settings of the groups of parameters in which the two differ."""
    wrappers, saved = _by_name(runner.optim_wrapper, checkpoint["optimizer"])
    for key, wrapper in wrappers.items():
        groups = zip(saved[key]["param_groups"], wrapper.optimizer.param_groups, strict=False)
        for former, own in groups:
            for name in _OF_OPTIMIZER:
                # Schedulers change the value itself.
                values = [group.get(f"initial_{name}", group.get(name)) for group in (former, own)]
                if name in former and name in own and _differ(*values):
                    yield f"optimizer {key + ' ' if key else ''}{name}", *values


def _scheduler_pairs(runner: Runner, checkpoint: dict[str, Any]) -> Iterator[_Pair]:
    own, saved = _by_name(runner.param_schedulers, checkpoint.get("param_schedulers"))
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


def _compare_schedulers(own: Any, saved: Any) -> str | None:
    """Say in what number or kind differs: MMEngine would mix the states in their order."""
    if not own or not saved:
        return None
    own, saved = _by_name(own, saved)
    if not isinstance(saved, dict) or own.keys() != saved.keys():
        return "they are of other optimizers"
    for key, schedulers in own.items():
        states = saved[key]
        if not isinstance(states, list) or not all(isinstance(state, dict) for state in states):
            return "they are no list of states"
        if len(states) != len(schedulers):
            return f"{len(states)} instead of {len(schedulers)}"
        for i, (state, scheduler) in enumerate(zip(states, schedulers, strict=True)):
            kinds = [_kind(state), _kind(scheduler.state_dict())]
            if kinds[0] != kinds[1]:
                settings = (", ".join(sorted(kind)) or "none" for kind in kinds)
                return "number {} has the settings {} instead of {}".format(i, *settings)
    return None


def _kind(state: dict) -> set[str]:
    """The names of a scheduler's own settings, and what it sets."""
    names = {n for n in state if isinstance(n, str) and not n.startswith("_")} - _COUNTED
    return names | {f"param_name={state.get('param_name')}"}


def _compare_optimizer(wrapper: OptimWrapper, saved: object) -> str | None:
    """Say what is different, if anything is."""
    try:
        groups, state = saved["param_groups"], saved["state"]
        indices = [group["params"] for group in groups]
        moments = {(index, name): value for index in state for name, value in state[index].items()}
    except (KeyError, TypeError, AttributeError):
        return "it lacks the groups of parameters or their state"
    own = wrapper.optimizer.param_groups
    counts, wanted = ([len(part) for part in parts] for parts in (indices, _params(own)))
    if counts != wanted:
        return (
            f"{sum(counts)} parameters in {len(counts)} groups instead of {sum(wanted)} in "
            f"{len(wanted)}"
        )
    for group, own_group in zip(groups, own, strict=True):
        if _SETTINGS & {*group} != _SETTINGS & {*own_group}:
            kinds = (", ".join(sorted(_SETTINGS & {*g})) or "none" for g in (group, own_group))
            return "it is of another kind, with the settings {} instead of {}".format(*kinds)
        for name, value in own_group.items():
            if type(value) is float and not _is_number(group.get(name, value)):
                return f"its setting {name} is not a number"
    for index, parameter in zip(chain(*indices), chain(*_params(own)), strict=True):
        for name in ("momentum_buffer", "exp_avg"):
            moment = moments.get((index, name))
            if moment is not None and getattr(moment, "shape", None) != parameter.shape:
                found = tuple(moment.shape) if isinstance(moment, Tensor) else type(moment).__name__
                wanted = tuple(parameter.shape)
                return f"{name} of parameter {index} has the shape {found} instead of {wanted}"
    return None


def _is_number(value: object) -> bool:
    value = value.item() if isinstance(value, Tensor) and value.numel() == 1 else value
    return type(value) in (int, float) and isfinite(value)


def _params(groups: list[dict]) -> list[list[nn.Parameter]]:
    return [group["params"] for group in groups]
