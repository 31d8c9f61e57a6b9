"""A loss or a gradient that is not finite ends the training, before a weight takes it in."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from mmengine.dist import all_reduce
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import AmpOptimWrapper, ApexOptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import EpochBasedTrainLoop, Runner
from torch import Tensor, nn
from torch.optim import Optimizer

from mmhcgnet.engine.carried_state import optim_wrappers
from mmhcgnet.engine.models import unwrapped
from mmhcgnet.errors import UsageError
from mmhcgnet.weights import listed, not_finite

_REMEDIES = (
    "lower the learning rate, lengthen the warm-up, clip the gradients "
    "(optim_wrapper.clip_grad.max_norm=35), and check the data with tools/misc/check_data.py."
)


class NonFiniteError(UsageError):
    """A loss or a gradient that is NaN or infinite."""


@HOOKS.register_module()
class NonFiniteHook(Hook):
    """Stop the training where a loss term or a gradient is NaN or infinite.

    It looks right before the optimizer's step, so that weights, averaged weights and checkpoints
    stay as they were, and, while gradients are accumulated, in every iteration. It costs a pass
    over the gradients and one wait for the device, which MMEngine's log costs as well. Processes
    of a distributed run inform each other, and stop in the same iteration.

    In mixed precision, the loss scaler skips a step whose gradients overflow, which is how it finds
    its scale. The hook lets it, up to a number in a row, unless running statistics of the model
    have taken in what is not finite.

    Args:
        max_skipped: How many steps in a row a loss scaler may skip. The default is more than the 16
            that it takes from PyTorch's first scale, 65536, down to 1.

    Raises:
        ValueError: If ``max_skipped`` is not an integer of at least 0.
    """

    def __init__(self, max_skipped: int = 20) -> None:
        if type(max_skipped) is not int or max_skipped < 0:
            raise ValueError(f"max_skipped must be an integer of at least 0, got {max_skipped!r}.")
        self.max_skipped = max_skipped
        self._losses: dict[str, Any] = {}
        self._batch: Any = None
        self._stepped: set[Optimizer] = set()
        self._skipped: Counter[Optimizer] = Counter()
        self._handles: list[Any] = []

    def before_train(self, runner: Runner) -> None:
        """Begin to watch the model's losses and the steps of its optimizers."""

        # Functions and no methods: a copy of the model must not copy what they hold.
        def keep(model: nn.Module, inputs: tuple, output: Any) -> None:
            if model.training and isinstance(output, dict):
                self._losses = output

        def check(optimizer: Optimizer, args: tuple, kwargs: dict) -> None:
            # A fused optimizer is called by the loss scaler in any case, and skips by itself.
            found_inf = getattr(optimizer, "found_inf", None)
            if found_inf is not None and found_inf.item():
                return
            self._check(runner, optimizer)
            self._stepped.add(optimizer)

        self._forget()
        # A model may hold an infinity by design, as in a mask.
        self._infinite = {*not_finite(dict(unwrapped(runner.model).named_buffers()))}
        self._handles = [unwrapped(runner.model).register_forward_hook(keep)]
        for wrapper in optim_wrappers(runner):
            self._handles.append(wrapper.optimizer.register_step_pre_hook(check))

    def before_train_iter(self, runner: Runner, batch_idx: int, data_batch: Any = None) -> None:
        """Note the batch, whose files an error names."""
        self._batch = data_batch

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Check the losses of an iteration without a step, and count what a loss scaler skips.

        Raises:
            NonFiniteError: If a loss is not finite, more steps in a row were skipped than may be,
                or a skipped one has spoilt running statistics.
        """
        for wrapper in optim_wrappers(runner):
            if wrapper.optimizer in self._stepped:
                self._skipped[wrapper.optimizer] = 0
            elif not isinstance(wrapper, AmpOptimWrapper | ApexOptimWrapper):
                self._check(runner, None)
            elif wrapper.should_update():
                self._skipped[wrapper.optimizer] += 1
                self._check_skipped(runner, self._skipped[wrapper.optimizer])
        self._losses, self._batch = {}, None
        self._stepped.clear()

    def after_train(self, runner: Runner) -> None:
        """Watch no longer."""
        self._forget()

    def _check(self, runner: Runner, optimizer: Optimizer | None) -> None:
        """Check the losses and the gradients that the optimizer is about to use."""
        parameters = _trained(optimizer) if optimizer else []
        terms = list(_terms(self._losses))
        tensors = [_values(p.grad) for p in parameters] + [term for _, term in terms]
        # A sum of squares can also overflow by itself: only then is each tensor looked at.
        if not _anywhere(_perhaps_not_finite(tensors)):
            return
        losses = _bad_terms(terms)
        names = {id(p): name for name, p in runner.model.named_parameters()}
        gradients = [
            names.get(id(p), "a parameter that is not the model's")
            for p in parameters
            if not _values(p.grad).isfinite().all()
        ]
        if not _anywhere(torch.tensor(bool(losses or gradients))):
            return
        found = []
        if losses:
            found.append(f"the loss ({', '.join(losses)})")
        if gradients and len(gradients) == len(parameters):
            found.append("the gradient of every parameter")
        elif gradients:
            found.append(f"the gradients of {listed(gradients, 'parameters')}")
        what = " and ".join(found) or "a loss or a gradient of another process"
        self._stop(runner, f"NaN or infinity in {what}", "before the weights take it in")

    def _check_skipped(self, runner: Runner, count: int) -> None:
        losses = _bad_terms(_terms(self._losses))
        where = f"the loss ({', '.join(losses)})" if losses else "the gradients"
        print_log(
            f"Iteration {runner.iter + 1}: NaN or infinity in {where}, and the loss scaler skips "
            f"the step ({count} in a row).",
            logger="current",
            level=logging.WARNING,
        )
        buffers = {
            name: buffer
            for name, buffer in unwrapped(runner.model).named_buffers()
            if buffer.is_floating_point() and name not in self._infinite
        }
        if _anywhere(_perhaps_not_finite(list(buffers.values()))):
            spoilt = [name for name, buffer in buffers.items() if not buffer.isfinite().all()]
            if _anywhere(torch.tensor(bool(spoilt))):
                self._stop(
                    runner,
                    f"NaN or infinity in {where} and so in running statistics, which keep it "
                    f"({listed(spoilt, 'of them')})",
                    "as later steps cannot fix it",
                )
        if count > self.max_skipped:
            self._stop(
                runner,
                f"NaN or infinity in {where}, and the loss scaler has skipped {count} steps in a "
                f"row, more than max_skipped={self.max_skipped}",
                "as no scale helps",
            )

    def _stop(self, runner: Runner, what: str, why: str) -> None:
        place = f"iteration {runner.iter + 1}"
        if isinstance(runner.train_loop, EpochBasedTrainLoop):
            place += f" (epoch {runner.epoch + 1})"
        files = _files(self._batch)
        batch = f", with {listed(files, 'files in its batch')}" if files else ""
        self._forget()
        raise NonFiniteError(f"{what}: training stops in {place}{batch}, {why}; {_REMEDIES}")

    def _forget(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles, self._losses, self._batch = [], {}, None
        self._stepped.clear()
        self._skipped.clear()


def _trained(optimizer: Optimizer) -> list[nn.Parameter]:
    parameters = (p for group in optimizer.param_groups for p in group["params"])
    return [p for p in parameters if p.grad is not None and p.grad.numel()]


def _values(gradient: Tensor) -> Tensor:
    return gradient._values() if gradient.is_sparse else gradient


def _terms(losses: dict[str, Any]) -> Iterator[tuple[str, Tensor]]:
    """Name what MMEngine adds up to the loss, lists entry by entry."""
    for key, value in losses.items():
        if "loss" in key:
            entries = value if isinstance(value, list | tuple) else [value]
            for i, entry in enumerate(entries):
                if isinstance(entry, Tensor) and entry.is_floating_point():
                    yield (f"{key}[{i}]" if entries is value else key), entry.detach()


def _bad_terms(terms: Iterable[tuple[str, Tensor]]) -> list[str]:
    means = ((name, term.mean()) for name, term in terms)
    return [f"{name}={mean.item()}" for name, mean in means if not mean.isfinite()]


def _perhaps_not_finite(tensors: list[Tensor]) -> Tensor:
    """Return, on the device, whether a tensor holds NaN, infinity or a very large number."""
    groups = defaultdict(list)
    for tensor in tensors:
        groups[tensor.device, tensor.dtype].append(tensor)
    sums = [torch.stack(torch._foreach_norm(group)).float().sum() for group in groups.values()]
    if not sums:
        return torch.tensor(False)
    return ~sum(total.to(sums[0].device) for total in sums).isfinite()


def _anywhere(found: Tensor) -> bool:
    """Return whether a process has found something; all of them must ask."""
    found = found.int()
    all_reduce(found, op="max")
    return bool(found.item())


def _files(batch: Any) -> list[str]:
    samples = batch.get("data_samples") if isinstance(batch, dict) else None
    if not isinstance(samples, list | tuple):
        return []
    return [path for sample in samples if (path := getattr(sample, "img_path", None))]
