"""Pretrained backbone weights must be there and complete.

MMEngine loads the weights of an ``init_cfg`` without strictness: a missing key is a line in the
log, and a frozen stem then stays random.
"""

from __future__ import annotations

import os.path as osp
from collections.abc import Iterable

import torch
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

CONVERTERS = dict(classification="official_to_mmpretrain.py", detection="official_to_mmdet.py")


class PretrainedMismatchError(RuntimeError):
    """Pretrained weights that are not those of the backbone."""


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
            "configs/hcgnet/*_in1k.py, or name an MMPretrain checkpoint of this backbone (keys "
            "'backbone.*') in model.backbone.init_cfg.checkpoint; without any, train from scratch "
            "with configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn_syncbn-all_scratch_6x_coco.py."
        )


def find_weights(checkpoint: dict) -> dict:
    """The tensors by name: MMEngine's ``state_dict``, the authors' ``net``, or the dict itself."""
    for key in ("state_dict", "net"):
        if isinstance(checkpoint.get(key), dict):
            return checkpoint[key]
    return checkpoint


def not_finite(weights: dict) -> list[str]:
    """Name the tensors that hold NaN or an infinity."""
    tensors = {name: value for name, value in weights.items() if isinstance(value, Tensor)}
    return [name for name, tensor in tensors.items() if not is_finite(tensor)]


def is_finite(tensor: Tensor) -> bool:
    """Whether a tensor holds neither NaN nor an infinity."""
    if tensor.is_floating_point() and tensor.itemsize == 1:
        tensor = tensor.float()  # PyTorch does not test numbers of 8 bits
    return bool(torch.isfinite(tensor).all())


def official_layout(names: Iterable[str]) -> str | None:
    """Tell the authors' own layouts by the names of the tensors.

    Returns:
        ``'classification'``, ``'detection'``, or ``None`` if it is neither of them.
    """
    names = [str(name).removeprefix("module.") for name in names]
    if not any(".conv1_1x1." in name for name in names):
        return None
    backbone = any(name.startswith("backbone.") for name in names)
    return "detection" if backbone else "classification"


def explain_official(path: str, layout: str) -> str:
    """Say what to do with a file in one of the authors' layouts."""
    return (
        f"The checkpoint {path} is in the layout of the authors' {layout} program: convert it "
        f"with `python tools/model_converters/{CONVERTERS[layout]} {path}` and name the file that "
        "this writes."
    )


def listed(names: list[str], what: str, most: int = 8) -> str:
    """Count and name the first few, as in ``2 missing (norm.bias, stem.conv.weight)``."""
    more = f", … {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:most])}{more})" if names else "")
