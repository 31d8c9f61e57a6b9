"""A checkpoint is taken over completely or not at all: its weights, and what resuming needs."""

from __future__ import annotations

import logging
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from mmengine.runner.checkpoint import get_state_dict
from torch import Tensor

from mmhcgnet.checkpoints import Checkpoint, use_safe_loader
from mmhcgnet.checkpoints.strict import AVERAGED, check_averaged, load_strictly, parts_above
from mmhcgnet.engine.models import unwrapped
from mmhcgnet.engine.resumed_state import check_training_state, overruled_settings
from mmhcgnet.errors import UsageError, did_you_mean
from mmhcgnet.models import HCGNet
from mmhcgnet.weights import holds_deployed, listed


@HOOKS.register_module()
class StrictLoadHook(Hook):
    """Refuse a checkpoint that is not exactly of the model, in testing, resuming and ``load_from``.

    It is refused before MMEngine loads it, with the names of the first few tensors that are
    missing, unknown, of another shape, or hold NaN or an infinity. What decides is the loading
    itself, so that models which take old names still do; as in MMEngine, a norm's
    ``num_batches_tracked`` may be missing. To resume, the file must also hold all that a training
    needs, and its optimizer be of the same kind with the same parameters.

    From then on, MMEngine reads all checkpoints by :func:`mmhcgnet.engine.use_safe_loader`.

    Args:
        replaced: Parts of the model that start from scratch when ``load_from`` gives weights to
            the rest, by the beginnings of their tensors' names, such as
            ``"roi_head.bbox_head.fc_cls"``. All that the checkpoint has there is left out. It has
            no effect on tests and resuming.
        dropped: Parts that a checkpoint may have in a test though the model has not, such as a
            mask head where boxes alone are tested.
    """

    # Before EMAHook, which takes the weights.
    priority = "VERY_HIGH"

    def __init__(self, replaced: Sequence[str] = (), dropped: Sequence[str] = ()) -> None:
        self.replaced = [replaced] if isinstance(replaced, str) else list(replaced)
        self.dropped = [dropped] if isinstance(dropped, str) else list(dropped)

    def before_run(self, runner: Runner) -> None:
        """Let MMEngine read checkpoints without running anything from them."""
        use_safe_loader()
        runner.load_or_resume = _explaining(runner, runner.load_or_resume)

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check what was read. The names lose a leading ``module.``, which MMEngine drops, too.

        Raises:
            UsageError: If it does not fit, or a part that is to start from scratch does not exist.
        """
        path = runner._load_from or "that was named"
        model = unwrapped(runner.model)
        own = get_state_dict(model)
        hcgnet = any(isinstance(module, HCGNet) for module in model.modules())
        opened = Checkpoint(checkpoint, path).require(holds_deployed(own) if hcgnet else None)
        weights = self._as_checked(opened)
        averaged = checkpoint.get("ema_state_dict", {})
        if not isinstance(averaged, dict) or not all(isinstance(name, str) for name in averaged):
            raise UsageError(f"The averaged weights in the checkpoint {path} have no names.")
        if not isinstance(runner._train_loop, BaseLoop):
            for name in [name for name in weights if _is_in(name, self.dropped)]:
                if name not in own:
                    del weights[name]
        starts = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        if starts and self.replaced:
            self._start_anew(checkpoint, weights, own)
        averages = any(isinstance(hook, EMAHook) for hook in runner.hooks)
        load_strictly(model, weights, path, starts, averaged)
        if averages or (runner._resume and averaged):
            check_averaged(averaged, weights, path)
        if runner._resume and averaged and not averages:
            _take_trained(weights, averaged)
        if runner._resume:
            check_training_state(runner, opened)
            if settings := overruled_settings(runner, opened.content):
                print_log(
                    "Resuming takes these settings from the checkpoint, and not from the config: "
                    f"{'; '.join(settings)}. For the config's own, start a new run from the "
                    "checkpoint's weights, with load_from.",
                    logger="current",
                    level=logging.WARNING,
                )

    def _as_checked(self, opened: Checkpoint) -> OrderedDict[str, Tensor]:
        """Let MMEngine take the weights as they were checked."""
        # The pattern is that of Runner.load_checkpoint, in which a dot is any character.
        weights = OrderedDict(
            (re.sub("^module.", "", name), tensor) for name, tensor in opened.weights.items()
        )
        weights._metadata = opened.weights._metadata
        if "state_dict" not in opened.content:
            opened.content.clear()
        opened.content["state_dict"] = weights
        return weights

    def _start_anew(self, checkpoint: dict, weights: dict, own: dict[str, Tensor]) -> None:
        """Put the model's own initial weights in the place of the checkpoint's."""
        known = {*own, *weights, *parts_above((*own, *weights))}
        for prefix in self.replaced:
            if prefix.rstrip(".") not in known:
                raise UsageError(
                    f"The model has no part {prefix} that could start from scratch"
                    f"{did_you_mean(prefix, parts_above(own))}: correct `replaced` of "
                    "mmhcgnet.StrictLoadHook."
                )
        anew = [name for name in own if _is_in(name, self.replaced)]
        names = listed(anew, "tensors", most=len(anew))
        print_log(f"Starting from scratch: {names}", logger="current")
        averaged = checkpoint.get("ema_state_dict", {})
        for tensors, lead in ((weights, ""), (averaged, AVERAGED)):
            for name in list(tensors):
                if _is_in(name.removeprefix(lead), self.replaced):
                    del tensors[name]
            if tensors:
                tensors.update({lead + name: own[name].clone() for name in anew})


def _take_trained(weights: dict, averaged: dict) -> None:
    """Take the weights that were trained; MMEngine saves the averaged ones in their place."""
    for name, tensor in averaged.items():
        if name.startswith(AVERAGED) and name.removeprefix(AVERAGED) in weights:
            weights[name.removeprefix(AVERAGED)] = tensor
    print_log(
        "The run to resume averaged its weights (EMAHook), and this config does not: it goes on "
        "from the trained weights, and the averaged ones are not used.",
        logger="current",
        level=logging.WARNING,
    )


def _is_in(name: str, parts: list[str]) -> bool:
    """Whether a tensor is in one of the parts of a model, or is one itself."""
    parts = [part.rstrip(".") for part in parts]
    return any(name == part or name.startswith(f"{part}.") for part in parts)


def _explaining(runner: Runner, take_over: Callable[[], None]) -> Callable[[], None]:
    """Turn whatever goes wrong in taking a state over into one sentence."""

    def load_or_resume() -> None:
        try:
            take_over()
        except UsageError:
            raise
        except Exception as error:  # what a state of other values makes MMEngine raise
            raise UsageError(
                f"The state in the checkpoint {runner._load_from} cannot be used by this "
                f"training ({type(error).__name__}: {error}): resume from another one, or "
                "start a new run from its weights with load_from."
            ) from error

    return load_or_resume
