"""Models as configs describe them, without a Runner."""

from __future__ import annotations

import copy

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn

from mmhcgnet.convert.matching import strip_module
from mmhcgnet.models.pretrained import find_weights

from .checkpoints import read_checkpoint
from .checks import check_checkpoint, check_sections, is_local
from .errors import UsageError, explain_misspelt_types
from .strict_load import load_strictly


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config in its ``default_scope``, without loading weights."""
    model, scope = copy.deepcopy(cfg.model), cfg.get("default_scope")
    if scope == "mmpretrain":
        model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
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
        MissingFileError: If the checkpoint is not there.
        UsageError: If it cannot be read, or one of its tensors is missing, unknown, of another
            shape or not finite, or the model cannot be built, or there is no such device.
    """
    check_device(device)
    check_sections(cfg, "model")
    if not is_local(checkpoint):
        raise UsageError(f"Weights are loaded from local files: fetch {checkpoint} and name it.")
    check_checkpoint(cfg, checkpoint)
    weights, _ = strip_module(find_weights(read_checkpoint(checkpoint)))
    with explain_misspelt_types():
        model = build_model(cfg)
    load_strictly(model, weights, checkpoint)
    return model.eval().to(device)


def check_device(device: str) -> None:
    """Check that there is such a device.

    Raises:
        UsageError: If it is ``'cuda'`` and PyTorch finds none.
    """
    if device == "cuda" and not torch.cuda.is_available():
        raise UsageError("PyTorch finds no CUDA device: use --device cpu.")
