"""Writing the checkpoint of a deployed model."""

from __future__ import annotations

import os

from mmengine.config import Config

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.convert import LayoutError
from mmhcgnet.convert.matching import check_match, number
from mmhcgnet.engine.configs import check_sections, has_deployed_hcgnet, load_config
from mmhcgnet.engine.deploy import switch_to_deploy
from mmhcgnet.engine.models import build_model, explain_misspelt_types
from mmhcgnet.errors import UsageError
from mmhcgnet.version import __version__
from mmhcgnet.weights import faults

from .converters import TERMS, is_plain, write_converted


def deploy_file(
    config: str, src: str, dst: str | None = None, publish: bool = False, force: bool = False
) -> str:
    """Write the checkpoint of a deployed model and print what was read and written.

    The optimiser's state and all else that only a training needs is left out.

    Args:
        config: The config of the model.
        src: The checkpoint to read. Of a training with MMEngine's ``EMAHook`` its ``state_dict``,
            which holds the averaged weights, is taken.
        dst: The file to write; by default ``src`` with ``_deploy`` at the end of its name.
        publish: Add date and hash to the name, as MMPretrain's ``publish_model.py`` does.
        force: Overwrite an existing file.

    Returns:
        The file that was written.

    Raises:
        MissingFileError: If the config or the checkpoint does not exist.
        UsageError: If one of them cannot be read, the weights are not exactly those of the
            config's model, that has no deployed form, or the output already exists or cannot be
            written. Nothing is written then.
    """
    cfg = load_config(config)
    check_sections(cfg, "model")
    if has_deployed_hcgnet(cfg):
        raise UsageError(f"The config {config} builds a deployed model: leave deploy=True out.")
    checkpoint = Checkpoint.open(src).require()
    weights, meta = checkpoint.weights, checkpoint.meta
    if checkpoint.is_deployed:
        raise UsageError(f"{src} is deployed already.")
    with explain_misspelt_types():
        model = build_model(cfg)
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    try:
        check_match(weights, wanted, (), f"the model of {config}")
    except LayoutError as error:
        raise UsageError(f"{src} cannot be deployed: {error}.") from error
    if broken := faults(weights):
        raise UsageError(f"{src} cannot be deployed: it has {broken}.")
    model.load_state_dict(weights)
    averaged = ", averaged weights" if "ema_state_dict" in checkpoint.content else ""
    epoch = number(meta.get("epoch"))
    stated = "not stated" if epoch is None else epoch
    print(f"read {src}: {type(model).__name__}, epoch {stated}{averaged}", flush=True)

    options = {f"model.{part}.deploy": True for part in switch_to_deploy(model)}
    if dst is None:
        # A checkpoint that ships is named without its folder and suffix.
        stem, _ = os.path.splitext(os.path.expanduser(src))
        _, suffix = os.path.splitext(checkpoint.path)
        dst = f"{stem}_deploy{suffix}"
    deployed = dict(meta=_deployed_meta(meta, cfg, options), state_dict=model.state_dict())
    dst = write_converted(deployed, src, dst, publish, force)
    flags = " ".join(f"{key}={value}" for key, value in options.items())
    print(f"test it with: python tools/test.py {config} {dst} --cfg-options {flags}")
    if "source" in meta:  # converted by us
        print(TERMS)
    return dst


def _deployed_meta(meta: dict, cfg: Config, options: dict[str, bool]) -> dict:
    """What the training has noted, with the config of the deployed model.

    MMDetection's inferencer builds the model from there if it gets no other config.
    """
    cfg.merge_from_dict(options)
    kept = {key: value for key, value in meta.items() if key != "hook_msgs" and is_plain(value)}
    return dict(kept, cfg=cfg.pretty_text, mmhcgnet_version=__version__)
