"""Pretrained backbone weights must exist and be complete.

MMEngine loads the weights of an ``init_cfg`` without strictness: a missing key is a line in the
log, and a frozen stem then stays random.
"""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterator
from contextlib import contextmanager

from mmengine.logging import print_log
from mmengine.model import update_init_info
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from mmhcgnet.config_dicts import type_name
from mmhcgnet.errors import MissingFileError, PretrainedMismatchError
from mmhcgnet.paths import is_local, shipped_weights
from mmhcgnet.weights import (
    explain_official,
    faults,
    find_weights,
    listed,
    official_layout,
    strip_module,
)


@contextmanager
def pretrained(backbone: nn.Module) -> Iterator[None]:
    """Load what the ``Pretrained`` entries of a backbone's ``init_cfg`` name at the end of a block.

    In the block, all else is initialised. MMEngine has the same order and reads each file again;
    here it is read once, before the block, and checked against the backbone. Keys that the
    backbone does not have are fine: heads, and stages that are not built.

    Args:
        backbone: The module whose ``init_cfg`` it is.

    Raises:
        MissingFileError: If a local file is missing.
        PretrainedMismatchError: If a file lacks a tensor of the backbone or has it in another
            shape, or with numbers that are not finite.
    """
    init_cfg = None if backbone.is_init else backbone.init_cfg  # a second time, nothing happens
    entries = init_cfg if isinstance(init_cfg, list) else [init_cfg] if init_cfg else []
    named = [cfg for cfg in entries if type_name(cfg) == "Pretrained"]
    read = [(cfg["checkpoint"], _read(backbone, cfg)) for cfg in named]
    backbone.init_cfg, init_cfg = [cfg for cfg in entries if cfg not in named], backbone.init_cfg
    try:
        yield
    finally:
        backbone.init_cfg = init_cfg
    for path, weights in read:
        print_log(f"Loaded the pretrained weights {path}", logger="current")
        backbone.load_state_dict(weights)
        if hasattr(backbone, "_params_init_info"):
            update_init_info(backbone, init_info=f"Pretrained weights from {path}")


def _read(backbone: nn.Module, cfg: dict) -> dict:
    """The tensors of the backbone in the file that an entry names."""
    path, prefix = cfg["checkpoint"], cfg.get("prefix") or ""
    check_pretrained_path(path)
    if prefix and not prefix.endswith("."):
        prefix += "."
    # After use_safe_loader, MMEngine reads by checkpoints/reading.py, once for a check and this.
    weights, twice = strip_module(
        find_weights(CheckpointLoader.load_checkpoint(path, map_location="cpu"))
    )
    if twice:
        raise PretrainedMismatchError(
            f"The pretrained weights {path} have {listed(twice, 'tensors twice')}, with and "
            "without 'module.': remove the wrong ones."
        )
    if layout := official_layout(weights):
        raise PretrainedMismatchError(explain_official(path, layout))
    check_covers(backbone, weights, path, prefix)
    return {name: weights[prefix + name] for name in backbone.state_dict()}


def check_covers(backbone: nn.Module, weights: dict, path: str, prefix: str) -> None:
    """Check that weights read from ``path`` hold every tensor of the backbone.

    Raises:
        PretrainedMismatchError: If one is missing, of another shape or not finite.
    """
    found = {
        name.removeprefix(prefix): tensor.shape
        for name, tensor in weights.items()
        if name.startswith(prefix) and isinstance(tensor, Tensor)
    }
    wanted = {name: tensor.shape for name, tensor in backbone.state_dict().items()}
    missing = [name for name in wanted if name not in found]
    other = [
        f"{name} {tuple(found[name])} instead of {tuple(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    if missing or other:
        raise PretrainedMismatchError(
            f"The pretrained weights {path} do not fit the backbone under the prefix {prefix!r}: "
            f"{listed(missing, 'missing')}, {listed(other, 'of another shape')}. "
            "Use the checkpoint of the same arch, or give the prefix its keys have."
        )
    if broken := faults({name: weights[prefix + name] for name in wanted}):
        raise PretrainedMismatchError(
            f"The pretrained weights {path} are broken: {broken}. Use others."
        )


def check_pretrained_path(path: str) -> None:
    """Raise a :class:`MissingFileError` if ``path`` is a local file that does not exist."""
    if is_local(path) and not (osp.exists(osp.expanduser(path)) or shipped_weights(path)):
        raise MissingFileError(
            f"The pretrained backbone weights {path} do not exist: convert the authors' with "
            "tools/model_converters/official_to_mmpretrain.py, train some with one of "
            "configs/hcgnet/*_in1k.py, or name an MMPretrain checkpoint of this backbone (keys "
            "'backbone.*') in model.backbone.init_cfg.checkpoint; without any, train from scratch "
            "as configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn_syncbn-all_scratch_6x_coco.py does."
        )
