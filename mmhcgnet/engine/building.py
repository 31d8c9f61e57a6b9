"""Models as configs describe them, without a Runner."""

from __future__ import annotations

import copy

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from torch import nn


def build_model(cfg: Config) -> nn.Module:
    """Build the model of a config in its ``default_scope``, without loading weights."""
    model, scope = copy.deepcopy(cfg.model), cfg.get("default_scope")
    if scope == "mmpretrain":
        model.setdefault("data_preprocessor", cfg.get("data_preprocessor"))
        if "train_cfg" in model:
            model.train_cfg = None  # MMPretrain would report what it does for mixup
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)
