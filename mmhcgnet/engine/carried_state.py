"""What an exact resume takes and MMEngine does not save: counters of hooks, unused gradients.

A checkpoint holds it under :data:`CARRIED`, as plain values and tensors.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mmengine.dist import get_world_size
from mmengine.hooks import EarlyStoppingHook
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.runner import Runner
from torch import Tensor, nn

from .models import unwrapped

CARRIED = "carried_state"
_GRADIENTS, _STOPPING, _SIZES = "gradients", "early_stopping", "input_sizes"


def optim_wrappers(runner: Runner) -> list[OptimWrapper]:
    """The wrappers of all optimizers of a run."""
    wrapper = runner.optim_wrapper
    return list(wrapper.values()) if isinstance(wrapper, OptimWrapperDict) else [wrapper]


def has_stepped(runner: Runner) -> bool:
    """Whether no gradients are accumulated for a later step."""
    return all(wrapper.should_update() for wrapper in optim_wrappers(runner))


def collect(runner: Runner) -> dict[str, Any]:
    """Collect the state of a training; only what there is to carry.

    Several processes accumulate gradients apart, and only one saves: those are not collected.
    """
    found: dict[str, Any] = {}
    if get_world_size() == 1 and not has_stepped(runner):
        parameters = unwrapped(runner.model).named_parameters()
        found[_GRADIENTS] = {name: p.grad for name, p in parameters if p.grad is not None}
    if stoppers := [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]:
        found[_STOPPING] = [[hook.wait_count, float(hook.best_score)] for hook in stoppers]
    if sizes := {name: m._input_size for name, m in _resizers(runner) if m._input_size}:
        found[_SIZES] = {name: list(size) for name, size in sizes.items()}
    return found


def warn_of_lost_gradients(runner: Runner, interval: int, by_epoch: bool) -> None:
    """Warn if several processes save between two steps of the optimiser.

    Args:
        runner: The runner.
        interval: Between two saves, in epochs or iterations.
        by_epoch: Which of them.
    """
    counts = [getattr(wrapper, "_accumulative_counts", 1) for wrapper in optim_wrappers(runner)]
    iterations = interval * (len(runner.train_dataloader) if by_epoch else 1)
    if get_world_size() > 1 and interval > 0 and any(iterations % count for count in counts):
        runner.logger.warning(
            f"A run of several processes does not save accumulated gradients: one that is resumed "
            f"from a checkpoint of every {iterations} iterations is not exact, as that is no "
            f"multiple of accumulative_counts={max(counts)}."
        )


def warn_of_first_sizes(runner: Runner) -> None:
    """Warn if a run to resume had batches of sizes that only their processes knew.

    Until ``BatchSyncRandomResize`` draws a size for all processes, each keeps that of its own first
    batch, and a checkpoint has the first process's.
    """
    first = [m._interval for _, m in _resizers(runner) if runner.iter < m._interval]
    if runner._resume and runner.iter and get_world_size() > 1 and first:
        runner.logger.warning(
            f"This run continues from iteration {runner.iter}, before BatchSyncRandomResize draws "
            f"the first size (interval={max(first)}): it is not exact if the first batches of its "
            "processes had different sizes."
        )


def restore(runner: Runner, carried: object) -> None:
    """Give a resumed training what :func:`collect` has found; what does not fit is left out."""
    carried = carried if isinstance(carried, dict) else {}
    gradients = _as(dict, carried.get(_GRADIENTS))
    for name, parameter in unwrapped(runner.model).named_parameters():
        gradient = gradients.get(name)
        if isinstance(gradient, Tensor) and gradient.shape == parameter.shape:
            parameter.grad = gradient.to(parameter)
    stoppers = [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]
    for hook, state in zip(stoppers, _as(list, carried.get(_STOPPING)), strict=False):
        match state:
            case [int(waited), float(best)]:
                hook.wait_count, hook.best_score = waited, best
    sizes = _as(dict, carried.get(_SIZES))
    for name, resizer in _resizers(runner):
        match sizes.get(name):
            case [int(height), int(width)] if height > 0 and width > 0:
                resizer._input_size = (height, width)


def _resizers(runner: Runner) -> Iterator[tuple[str, nn.Module]]:
    """MMDetection's ``BatchSyncRandomResize``, which keeps a size for some iterations."""
    for name, module in unwrapped(runner.model).named_modules():
        if type(module).__name__ == "BatchSyncRandomResize":
            yield name, module


def _as(kind: type, value: object) -> Any:
    return value if isinstance(value, kind) else kind()
