"""Models as configs describe them, without a Runner."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.checkpoints.strict import load_strictly
from mmhcgnet.errors import UsageError, did_you_mean
from mmhcgnet.paths import is_local

from .configs import check_sections, has_deployed_hcgnet, toolbox

_UNKNOWN_TYPE = re.compile(r"(?P<name>\S+) is not in the (?P<registry>\S+) registry")
_FAILED_TYPE = re.compile(r"Failed to get (?P<name>\S+)$")


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config in its ``default_scope``, without loading weights."""
    model, scope = copy.deepcopy(cfg.model), cfg.get("default_scope")
    if toolbox(cfg) == "mmpretrain":
        if cfg.get("data_preprocessor") is not None:
            model.setdefault("data_preprocessor", cfg.data_preprocessor)
        if "train_cfg" in model:
            model.train_cfg = None  # MMPretrain would report what it does for mixup
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)


def load_model(cfg: Config, checkpoint: str, device: str = "cpu") -> nn.Module:
    """Build the model of a config with exactly the weights of a checkpoint, in eval mode.

    Args:
        cfg: A config with a ``model``.
        checkpoint: A local file, of PyTorch or of safetensors. Of a training with MMEngine's
            ``EMAHook`` its ``state_dict``, which holds the averaged weights, is taken.
        device: Where the model is to be.

    Raises:
        MissingFileError: If the checkpoint does not exist.
        UsageError: If it cannot be read, or one of its tensors is missing, unknown, of another
            shape or not finite, or the model cannot be built, or the device does not exist.
    """
    check_device(device)
    check_sections(cfg, "model")
    if not is_local(checkpoint):
        raise UsageError(f"Weights are loaded from local files: fetch {checkpoint} and name it.")
    opened = Checkpoint.open(checkpoint).require(has_deployed_hcgnet(cfg))
    with explain_misspelt_types():
        model = build_model(cfg)
    load_strictly(model, opened.weights, checkpoint)
    return model.eval().to(device)


def unwrapped(model: nn.Module) -> nn.Module:
    """The model in wrappers for several processes and for test-time augmentation."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def is_detector(model: nn.Module) -> bool:
    """Whether a model is one of MMDetection's, which need not be installed for that."""
    return any(kind.__name__ == "BaseDetector" for kind in type(model).__mro__)


def check_device(device: str) -> None:
    """Check that PyTorch can compute on a device.

    Args:
        device: As ``'cpu'``, ``'cuda'`` or ``'cuda:1'``, or another one that PyTorch knows.

    Raises:
        UsageError: If it cannot.
    """
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise UsageError(
            f"{device!r} is not a device of PyTorch: name one as cpu, cuda or cuda:1."
        ) from error
    if chosen.type == "cuda":
        number = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if number == 0:
            raise UsageError("PyTorch finds no CUDA device: use the device cpu.")
        if (chosen.index or 0) >= number:
            raise UsageError(
                f"PyTorch finds no device {device}: the last one is cuda:{number - 1}."
            )
        return
    try:
        torch.zeros(1, device=chosen).cpu()
    except Exception as error:  # each kind of device raises what it likes
        raise UsageError(f"PyTorch cannot use the device {device} here: try cpu.") from error


@contextmanager
def explain_misspelt_types() -> Iterator[None]:
    """Turn the registries' errors about an unknown ``type=`` into a :class:`UsageError`."""
    try:
        yield
    except (KeyError, RuntimeError) as error:
        message = str(error.args[0]) if error.args else ""
        match = _UNKNOWN_TYPE.search(message) or _FAILED_TYPE.match(message)
        if match is None:
            raise
        name = match["name"].strip("'\"`")
        scope, _, registry = match.groupdict().get("registry", "").rpartition("::")
        where = f"the {registry} registry of {scope}" if registry else "any registry"
        hint = did_you_mean(name, _registered_names(registry, scope))
        raise UsageError(
            f"type={name!r} is not in {where}{hint}: fix the name in the config, write it as "
            "'package.Name', or import the module that registers it with custom_imports."
        ) from error


def _registered_names(registry: str, scope: str) -> set[str]:
    """Names of all types in the registries called ``registry``, as one would type them."""
    from mmengine import registry as registries

    pending = [
        root
        for root in vars(registries).values()
        if isinstance(root, registries.Registry) and registry in ("", root.name)
    ]
    names = set()
    while pending:
        node = pending.pop()
        pending += node.children.values()
        for name, kind in node.module_dict.items():
            # Ours sit in MMEngine's registry, and configs write them with the package's name.
            home = "mmhcgnet" if kind.__module__.startswith("mmhcgnet.") else node.scope
            # The root's types need no prefix, nor do those of the scope of the look-up.
            names.add(name if home in ("mmengine", scope) else f"{home}.{name}")
    return names
