"""Loading a checkpoint completely or not at all.

MMEngine loads what fits by name and shape and logs the rest: a test of a checkpoint of which
nothing fits then measures random weights.
"""

from __future__ import annotations

import re
from collections import OrderedDict, namedtuple
from collections.abc import Iterable, Sequence
from itertools import chain

from mmengine.hooks import EMAHook, Hook
from mmengine.logging import print_log
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper, OptimWrapperDict
from mmengine.registry import HOOKS
from mmengine.runner import BaseLoop, Runner
from mmengine.runner.checkpoint import get_state_dict
from torch import Tensor, nn

from mmhcgnet.engine.checkpoints import use_safe_loader
from mmhcgnet.engine.checks import compare_deployed
from mmhcgnet.errors import UsageError, did_you_mean
from mmhcgnet.models import HCGNet
from mmhcgnet.weights import (
    explain_official,
    find_weights,
    holds_deployed,
    listed,
    not_finite,
    official_layout,
)

_OTHER_SHAPE = re.compile(r"size mismatch for (\S+): .*?(\[.*?\]).*?(\[.*?\])")
_AVERAGED = "module."  # leads the names in an ema_state_dict
# Settings that tell kinds of optimisers apart.
_SETTINGS = {"alpha", "betas", "momentum", "rho"}
_Keys = namedtuple("_Keys", ["missing_keys", "unexpected_keys"])


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
        replaced: Parts of the model that start anew when ``load_from`` gives weights to the rest,
            by the beginnings of their tensors' names, such as ``"roi_head.bbox_head.fc_cls"``. All
            that the checkpoint has there is left out. It has no effect on tests and resuming.
    """

    # Before EMAHook, which takes the weights.
    priority = "VERY_HIGH"

    def __init__(self, replaced: Sequence[str] = ()) -> None:
        self.replaced = [replaced] if isinstance(replaced, str) else list(replaced)

    def before_run(self, runner: Runner) -> None:
        """Let MMEngine read checkpoints without running anything from them."""
        use_safe_loader()

    def after_load_checkpoint(self, runner: Runner, checkpoint: dict) -> None:
        """Check what was read. The names lose a leading ``module.``, which MMEngine drops, too.

        Raises:
            UsageError: If it does not fit, or a part that is to start anew is not there.
        """
        path = runner._load_from or "that was named"
        if layout := official_layout(find_weights(checkpoint)):
            raise UsageError(explain_official(path, layout))
        weights = _weights_by_name(checkpoint, path)
        model = runner.model
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        own = get_state_dict(model)
        if any(isinstance(module, HCGNet) for module in model.modules()):
            compare_deployed(path, holds_deployed(weights), holds_deployed(own))
        starts = isinstance(runner._train_loop, BaseLoop) and not runner._resume
        if starts and self.replaced:
            self._start_anew(checkpoint, weights, own)

        averaged = checkpoint.get("ema_state_dict", {})
        load_strictly(model, weights, path, starts, averaged)
        if any(isinstance(hook, EMAHook) for hook in runner.hooks):
            _check_averaged(averaged, weights, path)
        if runner._resume:
            _check_training_state(runner, checkpoint, path)

    def _start_anew(self, checkpoint: dict, weights: dict, own: dict[str, Tensor]) -> None:
        """Put the model's own initial weights in the place of the checkpoint's."""
        for prefix in self.replaced:
            if not any(_is_under(name, prefix) for name in (*own, *weights)):
                raise UsageError(
                    f"The model has no part {prefix} that could start anew"
                    f"{did_you_mean(prefix, _parts(own))}: mend --replace, or replaced in "
                    "mmhcgnet.StrictLoadHook."
                )
        anew = [name for name in own if _is_under_any(name, self.replaced)]
        print_log(f"Starting anew: {listed(anew, 'tensors', most=len(anew))}", logger="current")
        averaged = checkpoint.get("ema_state_dict", {})
        for tensors, lead in ((weights, ""), (averaged, _AVERAGED)):
            for name in list(tensors):
                if _is_under_any(name.removeprefix(lead), self.replaced):
                    del tensors[name]
            if tensors:
                tensors.update({lead + name: own[name].clone() for name in anew})


def _weights_by_name(checkpoint: dict, path: str) -> dict[str, Tensor]:
    """The weights as MMEngine will take them, which then stand as ``state_dict``."""
    found = checkpoint.get("state_dict", checkpoint)
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise UsageError(f"The checkpoint {path} holds no weights by name.")
    # The pattern is that of Runner.load_checkpoint.
    weights = OrderedDict((re.sub("^module.", "", name), found[name]) for name in found)
    weights._metadata = getattr(found, "_metadata", OrderedDict())
    if found is checkpoint:
        checkpoint.clear()
    checkpoint["state_dict"] = weights
    return weights


def load_strictly(
    model: nn.Module, weights: dict, path: str, starts: bool = False, averaged: dict | None = None
) -> None:
    """Load weights into a model if they are exactly its own.

    Args:
        model: The model, without a wrapper.
        weights: Its tensors by name.
        path: Where they come from.
        starts: Whether a training is to start from them, in which parts may be replaced.
        averaged: EMAHook's weights, which are to be finite, too.

    Raises:
        UsageError: If a tensor is missing, unknown, of another shape or not finite; the model then
            has taken what fits.
    """
    # A model may hold an infinity by design, as in a mask.
    constant = not_finite(dict(model.named_buffers()))
    broken = [
        name
        for name in (*not_finite(weights), *not_finite(averaged or {}))
        if name.removeprefix(_AVERAGED) not in constant
    ]
    _check_fit(model, weights, path, starts)
    if broken:
        raise UsageError(
            f"The checkpoint {path} is broken: {listed(broken, 'not finite')}; take one from "
            "before its training went astray."
        )


def _check_fit(model: nn.Module, weights: dict, path: str, starts: bool) -> None:
    missing, unknown, failed = _load(model, weights)
    missing = [name for name in missing if "num_batches_tracked" not in name]
    if not missing and not unknown and not failed:
        return
    shapes = [match for text in failed if (match := _OTHER_SHAPE.search(text))]
    others = [text for text in failed if not _OTHER_SHAPE.search(text)]
    kinds = {
        "missing": missing,
        "unknown": unknown,
        "of another shape": [f"{m[1]} {_shape(m[2])} instead of {_shape(m[3])}" for m in shapes],
        "not loaded": others,
    }
    counts = ", ".join(listed(names, kind) for kind, names in kinds.items() if names)
    advice = "name the checkpoint of this config's model"
    parts = _heads([match[1] for match in shapes], [*missing, *unknown])
    if starts and parts:
        advice += f", or let these parts start anew with --replace {' '.join(parts)}"
    elif starts and not any("backbone." in name for name in (*missing, *unknown, *failed)):
        advice += (
            ", or take the backbone's weights alone, with load_from=None and "
            "model.backbone.init_cfg=dict(type='Pretrained', checkpoint=…, prefix='backbone.')"
        )
    own = len(get_state_dict(model))
    raise UsageError(
        f"The checkpoint {path} does not fit the model of {own} tensors: {counts}; {advice}."
    )


def _check_averaged(averaged: dict, weights: dict, path: str) -> None:
    """Check the averaged weights, which EMAHook exchanges with the others by name."""
    other = [
        name
        for name, tensor in averaged.items()
        if name.startswith(_AVERAGED)
        and tensor.shape != getattr(weights.get(name.removeprefix(_AVERAGED)), "shape", None)
    ]
    if other:
        raise UsageError(
            f"The averaged weights in the checkpoint {path} are of another model than its "
            f"state_dict: {listed(other, 'without counterpart')}; take another checkpoint."
        )


def _load(model: nn.Module, weights: dict) -> tuple[list[str], list[str], list[str]]:
    """Load weights as MMEngine does and tell what is missing, unknown and in error.

    MMEngine's own function says so in a text, and in a distributed run on rank 0 alone.
    """
    missing: list[str] = []
    unknown: list[str] = []
    failed: list[str] = []
    metadata = getattr(weights, "_metadata", {})

    def load(module: nn.Module, weights: dict, prefix: str) -> None:
        if is_model_wrapper(module) or isinstance(module, BaseTTAModel):
            module = module.module
        of_module = metadata.get(prefix[:-1], {})
        module._load_from_state_dict(weights, prefix, of_module, True, missing, unknown, failed)
        for name, child in module._modules.items():
            if child is None:
                continue
            start = f"{prefix}{name}."
            load(child, {key: weights[key] for key in weights if key.startswith(start)}, start)
        for hook in module._load_state_dict_post_hooks.values():
            hook(module, _Keys(missing, unknown))

    load(model, weights.copy(), "")
    return missing, unknown, failed


def _shape(text: str) -> str:
    """``"[5, 64]"`` as a tuple."""
    return str(tuple(int(size) for size in re.findall(r"\d+", text)))


def _heads(layers: list[str], tensors: list[str]) -> list[str]:
    """What one replaces for other classes, if all that differs is in heads.

    Args:
        layers: Tensors of another shape, of which the layer is replaced.
        tensors: Tensors that are missing or unknown, of which the head is replaced.
    """
    parts = [name.rpartition(".")[0] for name in layers]
    parts += [re.sub(r"(.*head[^.]*).*", r"\1", name) for name in tensors]
    parts = [part for part in dict.fromkeys(parts) if not _is_under_any(part, set(parts) - {part})]
    return parts if all("head" in part for part in parts) else []


def _is_under(name: str, prefix: str) -> bool:
    prefix = prefix.rstrip(".")
    return name == prefix or name.startswith(f"{prefix}.")


def _is_under_any(name: str, prefixes: Iterable[str]) -> bool:
    return any(_is_under(name, prefix) for prefix in prefixes)


def _parts(names: Iterable[str]) -> set[str]:
    """All that names of tensors can be under, as ``a`` and ``a.b`` for ``a.b.weight``."""
    found = set()
    for name in names:
        while name:
            found.add(name := name.rpartition(".")[0])
    return found - {""}


def _check_training_state(runner: Runner, checkpoint: dict, path: str) -> None:
    """Check that a training can go on from a checkpoint."""
    meta, hub = (checkpoint.get(key) for key in ("meta", "message_hub"))
    missing = [key for key in ("epoch", "iter") if not isinstance((meta or {}).get(key), int)]
    if not isinstance(hub, dict) or not {"log_scalars", "runtime_info", "resumed_keys"} <= {*hub}:
        missing.append("message_hub")
    if "optimizer" not in checkpoint:
        missing.append("optimizer")
    if runner.param_schedulers and not checkpoint.get("param_schedulers"):
        missing.append("param_schedulers")
    if missing:
        raise UsageError(
            f"The checkpoint {path} is none that a training can go on from, as it lacks "
            f"{', '.join(missing)}: start a new one from its weights with load_from."
        )
    wrapper = runner.optim_wrapper
    if isinstance(wrapper, OptimWrapperDict):
        pairs = [(wrapper[name], checkpoint["optimizer"].get(name)) for name in wrapper.keys()]
    else:
        pairs = [(wrapper, checkpoint["optimizer"])]
    for wrapper, saved in pairs:
        if isinstance(wrapper, OptimWrapper) and (problem := _compare_optimizer(wrapper, saved)):
            raise UsageError(
                f"The optimizer's state in the checkpoint {path} does not fit the config's: "
                f"{problem}; resume with the config of that run, or start anew with load_from."
            )


def _compare_optimizer(wrapper: OptimWrapper, saved: object) -> str | None:
    """Say what is different, if anything is."""
    try:
        groups, state = saved["param_groups"], saved["state"]
        indices = [group["params"] for group in groups]
    except (KeyError, TypeError):
        return "it has no groups of parameters"
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
            return "of another kind, with the settings {} instead of {}".format(*kinds)
    for index, parameter in zip(chain(*indices), chain(*_params(own)), strict=True):
        for name in ("momentum_buffer", "exp_avg"):
            moment = state.get(index, {}).get(name)
            if isinstance(moment, Tensor) and moment.shape != parameter.shape:
                shapes = f"{tuple(moment.shape)} instead of {tuple(parameter.shape)}"
                return f"{name} of parameter {index} has the shape {shapes}"
    return None


def _params(groups: list[dict]) -> list[list[nn.Parameter]]:
    return [group["params"] for group in groups]
