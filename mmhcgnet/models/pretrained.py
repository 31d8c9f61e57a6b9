"""Pretrained backbone weights must be there and complete.

MMEngine loads the weights of an ``init_cfg`` without strictness: a missing key is a line in the
log, and a frozen stem then stays random.
"""

from __future__ import annotations

import os.path as osp

from mmengine.runner import CheckpointLoader
from torch import nn

from mmhcgnet.errors import PretrainedMismatchError
from mmhcgnet.weights import explain_official, find_weights, listed, not_finite, official_layout


def check_pretrained(backbone: nn.Module, init_cfg: dict | list[dict] | None) -> None:
    """Check the ``Pretrained`` entries of an ``init_cfg`` against the backbone.

    Keys that the backbone does not have are fine: heads, and stages that are not built.

    Args:
        backbone: The module that is about to load the weights.
        init_cfg: The module's ``init_cfg``.

    Raises:
        FileNotFoundError: If a local file is missing.
        PretrainedMismatchError: If the file lacks a tensor of the backbone or has it in another
            shape, or with numbers that are not finite.
    """
    for cfg in init_cfg if isinstance(init_cfg, list) else [init_cfg]:
        if cfg and cfg["type"] in ("Pretrained", "PretrainedInit"):
            _check_file(backbone, cfg["checkpoint"], cfg.get("prefix") or "")


def _check_file(backbone: nn.Module, path: str, prefix: str) -> None:
    check_pretrained_path(path)
    if prefix and not prefix.endswith("."):
        prefix += "."
    weights = find_weights(CheckpointLoader.load_checkpoint(path, map_location="cpu"))
    if layout := official_layout(weights):
        raise PretrainedMismatchError(explain_official(path, layout))
    check_covers(backbone, weights, path, prefix)


def check_covers(backbone: nn.Module, weights: dict, path: str, prefix: str) -> None:
    """Check that weights read from ``path`` hold every tensor of the backbone.

    Raises:
        PretrainedMismatchError: If one is missing, of another shape or not finite.
    """
    found = {
        name.removeprefix(prefix): tensor.shape
        for name, tensor in weights.items()
        if name.startswith(prefix)
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
    if broken := not_finite({name: weights[prefix + name] for name in wanted}):
        raise PretrainedMismatchError(
            f"The pretrained weights {path} are broken: {listed(broken, 'not finite')}. Use others."
        )


def check_pretrained_path(path: str) -> None:
    """Raise a ``FileNotFoundError`` if ``path`` is a local file that does not exist."""
    if "://" not in path and not osp.isfile(path):
        raise FileNotFoundError(
            f"The pretrained backbone weights {path} are not there: convert the authors' with "
            "tools/model_converters/official_to_mmpretrain.py, train some with one of "
            "configs/hcgnet-*_in1k.py, or name an MMPretrain checkpoint of this backbone (keys "
            "'backbone.*') in model.backbone.init_cfg.checkpoint; without any, train from scratch "
            "with configs/mask-rcnn_hcgnet-b_fpn_syncbn-all_scratch_6x_coco.py."
        )
