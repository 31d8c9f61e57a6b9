"""Checks of the config and the files that it names, before anything is built."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from mmengine.config import Config, ConfigDict
from mmengine.registry import MODELS

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.checkpoints.sources import open_ahead
from mmhcgnet.config_dicts import nested_dicts, type_name
from mmhcgnet.engine.configs import has_deployed_hcgnet, ops_lack_the_gpu, toolbox
from mmhcgnet.errors import UsageError
from mmhcgnet.models.pretrained import check_covers, check_pretrained_path
from mmhcgnet.paths import is_local


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


def check_checkpoint(cfg: Config, path: str) -> Checkpoint | None:
    """Check what a local checkpoint shows before the model is built; URLs pass.

    Args:
        cfg: The config that is to load it.
        path: The file, which MMEngine then does not read again.

    Returns:
        The checkpoint, ``None`` if it is not local.

    Raises:
        MissingFileError: If it does not exist.
        UsageError: If it cannot be read, is in one of the authors' own layouts, or of a deployed
            HCGNet and the config's is not, or the other way round.
    """
    if not is_local(path):
        return None
    return open_ahead(path).require(has_deployed_hcgnet(cfg))


def check_ops(cfg: Config) -> None:
    """Check that a detector's ops run where PyTorch will put it.

    Raises:
        UsageError: If there is a GPU and MMCV's ops are for the CPU alone.
    """
    if toolbox(cfg) == "mmdet" and ops_lack_the_gpu():
        raise UsageError(
            "MMCV's ops were compiled without CUDA, so a detector cannot use this machine's GPU: "
            "set CUDA_VISIBLE_DEVICES='' to run on the CPU, or compile MMCV again where nvcc is."
        )


def check_pretrained_files(model: ConfigDict) -> None:
    """Check that the local files of all ``Pretrained`` initialisations exist and are ours.

    Raises:
        MissingFileError: If one does not exist.
        UsageError: If one is in the authors' own layout or cannot be read.
    """
    for node in nested_dicts(model):
        if type_name(node) == "Pretrained" and node.get("checkpoint"):
            check_pretrained_path(node["checkpoint"])
            if is_local(node["checkpoint"]):
                open_ahead(node["checkpoint"]).require()


def check_frozen_backbone(cfg: Config) -> None:
    """Check that something gives weights to an HCGNet of which a part is frozen.

    Raises:
        UsageError: If nothing does.
        PretrainedMismatchError: If a local ``load_from`` lacks a tensor of the backbone.
    """
    path = cfg.get("load_from")
    for key, backbone in _without_weights(cfg.model, "model"):
        frozen = backbone.get("frozen_stages", -1)
        if frozen < 0:
            continue
        if not path:
            raise UsageError(
                f"The config freezes a part of the backbone ({key}.frozen_stages={frozen}) to "
                "which nothing gives weights: set load_from=PATH, name weights in "
                f"{key}.init_cfg, or train all of it from scratch, its norms included, with "
                f"{key}.frozen_stages=-1 {key}.norm_eval=False."
            )
        # What is nested may have another name in the checkpoint, as which its loading checks it.
        if is_local(path) and key == "model.backbone":
            with torch.device("meta"):
                network = MODELS.build(backbone)
            check_covers(network, open_ahead(path).weights, path, "backbone.")


def _without_weights(node: object, key: str) -> Iterator[tuple[str, dict]]:
    """The configs of HCGNets that are not in anything which is initialised from a file."""
    if isinstance(node, list | tuple):
        for i, child in enumerate(node):
            yield from _without_weights(child, f"{key}.{i}")
    elif isinstance(node, dict):
        init_cfg = node.get("init_cfg")
        if any(type_name(init) == "Pretrained" for init in nested_dicts(init_cfg)):
            return
        if type_name(node) == "HCGNet":
            yield key, node
        for name, child in node.items():
            yield from _without_weights(child, f"{key}.{name}")
