"""Checks of paths and config before anything large is built or loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from mmhcgnet.errors import MissingFileError, UsageError
from mmhcgnet.models.pretrained import check_covers, check_pretrained_path
from mmhcgnet.paths import is_local
from mmhcgnet.weights import explain_official, find_weights, holds_deployed, official_layout

from .checkpoints import read_checkpoint
from .configs import has_deployed_hcgnet, has_hcgnet, nested_dicts, ops_lack_the_gpu


def check_checkpoint_path(path: str) -> None:
    """Check that a local checkpoint exists; URLs and other backends (``://``) pass.

    Raises:
        MissingFileError: If it is not there.
    """
    if is_local(path) and not os.path.isfile(path):
        folder = Path(path).parent
        found = sorted(str(file) for file in folder.glob("*.pth"))
        hint = f" ({folder} holds {', '.join(found[-3:])})" if found else ""
        raise MissingFileError(
            f"The checkpoint {path} does not exist{hint}: name one that does, where the config "
            "names it with --cfg-options load_from=PATH."
        )


def check_not_official(path: str) -> None:
    """Check that a local checkpoint is not in one of the authors' own layouts; URLs pass.

    MMEngine loads what fits by name: of such a file nothing, and every weight would stay random.

    Raises:
        UsageError: If it is, with the command that converts it, or if it cannot be read.
    """
    if not is_local(path):
        return
    layout = official_layout(find_weights(read_checkpoint(path)))
    if layout is not None:
        raise UsageError(explain_official(path, layout))


def check_trainable(cfg: Config) -> None:
    """Check that a config does not train an HCGNet in the deployed form.

    Raises:
        UsageError: If it does.
    """
    if has_deployed_hcgnet(cfg):
        raise UsageError(
            "The config's HCGNet is deployed (model.backbone.deploy=True) and cannot be trained: "
            "leave deploy=True out."
        )


def check_checkpoint(cfg: Config, path: str) -> None:
    """Check what can be told of a local checkpoint before the model is built; URLs pass.

    Args:
        cfg: The config that is to load it.
        path: The file, which is read once.

    Raises:
        MissingFileError: If it is not there.
        UsageError: If it cannot be read, is in one of the authors' own layouts, or is of a deployed
            HCGNet and the config's is none, or the other way round.
    """
    check_checkpoint_path(path)
    if not is_local(path):
        return
    weights = find_weights(read_checkpoint(path))
    if layout := official_layout(weights):
        raise UsageError(explain_official(path, layout))
    if has_hcgnet(cfg):
        compare_deployed(path, holds_deployed(weights), has_deployed_hcgnet(cfg))


def compare_deployed(path: str, in_file: bool, in_config: bool) -> None:
    """Check that a checkpoint and a model are both of a deployed HCGNet or both not.

    The tensors have other names then: MMEngine would load what fits and leave the rest random.

    Raises:
        UsageError: If they are not alike.
    """
    if in_file and not in_config:
        raise UsageError(
            f"The checkpoint {path} is of a deployed HCGNet and the config's is none: to test it "
            "pass --cfg-options model.backbone.deploy=True, and to train name the checkpoint that "
            "it was made of."
        )
    if in_config and not in_file:
        raise UsageError(
            f"The config's HCGNet is deployed (model.backbone.deploy=True) and the checkpoint "
            f"{path} is of one that is not: leave deploy=True out and pass --deploy, or convert "
            f"the file with `python tools/model_converters/deploy.py CONFIG {path}`."
        )


def check_ops(cfg: Config) -> None:
    """Check that a detector's ops run where PyTorch will put it.

    Raises:
        UsageError: If there is a GPU and MMCV's ops are for the CPU alone.
    """
    if cfg.get("default_scope") == "mmdet" and ops_lack_the_gpu():
        raise UsageError(
            "MMCV's ops were compiled without CUDA, so a detector cannot use this machine's GPU: "
            "set CUDA_VISIBLE_DEVICES='' to run on the CPU, or compile MMCV again where nvcc is."
        )


def check_pretrained_files(model: ConfigDict) -> None:
    """Check that the local files of all ``Pretrained`` initialisations are there and ours.

    Raises:
        MissingFileError: If one is not there.
        UsageError: If one is in the authors' own layout or cannot be read.
    """
    for node in nested_dicts(model):
        if str(node.get("type")) in ("Pretrained", "PretrainedInit") and node.get("checkpoint"):
            try:
                check_pretrained_path(node["checkpoint"])
            except FileNotFoundError as error:
                raise MissingFileError(str(error)) from error
            check_not_official(node["checkpoint"])


def check_frozen_backbone(cfg: Config) -> None:
    """Check that something gives weights to an HCGNet of which a part is frozen.

    Raises:
        UsageError: If nothing does.
        PretrainedMismatchError: If a local ``load_from`` lacks a tensor of the backbone.
    """
    backbone = cfg.model.get("backbone") or {}
    frozen = backbone.get("frozen_stages", -1)
    if not str(backbone.get("type")).endswith("HCGNet") or frozen < 0:
        return
    if any(str(node.get("type")).startswith("Pretrained") for node in nested_dicts(backbone)):
        return
    path = cfg.get("load_from")
    if not path:
        raise UsageError(
            f"The config freezes a part of the backbone (frozen_stages={frozen}) to which nothing "
            "gives weights: pass --cfg-options load_from=PATH, name weights in "
            "model.backbone.init_cfg, or train all of it with model.backbone.frozen_stages=-1."
        )
    if is_local(path):
        with torch.device("meta"):
            network = MODELS.build(backbone)
        check_covers(network, find_weights(read_checkpoint(path)), path, "backbone.")
