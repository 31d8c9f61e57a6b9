"""Writing a model as a file for engines."""

from __future__ import annotations

import os
import subprocess
from importlib.util import find_spec
from pathlib import Path

from mmengine.config import Config

from mmhcgnet.engine.configs import channel_order, load_config
from mmhcgnet.engine.export import (
    Exported,
    export_backbone,
    export_model,
    output_files,
    write_model,
)
from mmhcgnet.engine.export.checking import difference
from mmhcgnet.engine.export.in_runner import ExportedModel
from mmhcgnet.engine.export.pipeline import describe_pipeline
from mmhcgnet.engine.inference import class_names
from mmhcgnet.engine.models import load_model
from mmhcgnet.errors import UsageError
from mmhcgnet.version import __version__
from mmhcgnet_runtime import RuntimeFileError
from mmhcgnet_runtime.engines import ENGINES

from .options import check_output, check_overwriting
from .progress import leave_out_noise

MOST = dict(full=1e-3, half=5e-2)  # the largest difference from PyTorch that is taken for rounding


def export_file(
    config: str,
    checkpoint: str,
    output: str | None = None,
    format: str | None = None,
    half: bool = False,
    backbone: bool = False,
    force: bool = False,
    cfg_options: list[str] | None = None,
) -> str:
    """Export a model and print what was written and how far it is from PyTorch.

    Args:
        config: The config of the model.
        checkpoint: Its weights.
        output: The file to write; by default that of the checkpoint with another suffix.
        format: ``'onnx'`` or ``'openvino'``; by default what the suffix of ``output`` says.
        half: Store weights in half precision.
        backbone: Export the backbone alone, with all its maps.
        force: Overwrite existing files, but none that is read.
        cfg_options: ``key=value`` strings for the config.

    Returns:
        The file that was written.

    Raises:
        MissingFileError: If the config or the checkpoint does not exist.
        UsageError: If the model cannot be loaded or exported, or the file cannot be written.
    """
    suffix = os.path.splitext(output)[1] if output else ""
    format = format or ("openvino" if suffix == ".xml" else "onnx")
    if output is None:
        stem = os.path.splitext(os.path.expanduser(checkpoint))[0]
        output = stem + dict(onnx=".onnx", openvino=".xml")[format]
    cfg = load_config(config, cfg_options)
    paths = output_files(output, format)
    for path in paths:
        check_overwriting(path, checkpoint, force=force)
    leave_out_noise(cfg)
    model = load_model(cfg, checkpoint)
    for path in paths:
        check_output(path, cfg)
    exported = (export_backbone if backbone else export_model)(model, channel_order(cfg))
    facts = dict(
        classes=class_names(cfg, checkpoint),
        layout="uint8 NHWC RGB",
        config=os.path.basename(config),
        checkpoint=os.path.basename(checkpoint),
        version=__version__,
        commit=_commit(),
        **describe_pipeline(cfg),
    )
    most, found = MOST["half" if half else "full"], []

    def check(draft: str) -> None:
        found.append(_difference(exported, draft, output, most, objects=not half))

    nodes = write_model(exported, output, facts, format, half, check)
    print(f"wrote {output}: {exported.task}, {nodes} operators", flush=True)
    if facts["steps"] is None:
        print(
            f"The config prepares images by {facts['unknown_step']}, which the file cannot "
            "describe: who runs it has to do so."
        )
    print(*found)
    return output


def _difference(exported: Exported, draft: str, output: str, most: float, objects: bool) -> str:
    """Compare a file with PyTorch before it becomes the output, and say how far it is."""
    engines = ("openvino",) if draft.endswith(".xml") else ENGINES
    if not any(find_spec(engine) for engine in engines):
        return f"It was not compared with PyTorch, as no engine is installed: {engines[0]}"
    try:
        found = difference(exported, draft, objects)
    except RuntimeFileError as error:
        reason = str(error).replace(draft, "what was exported")
        raise UsageError(f"{output} was not written: {reason}") from error
    if not found <= most:
        raise UsageError(
            f"{output} was not written, as what was exported differs from PyTorch by {found:.1g}: "
            "please report it."
        )
    return f"largest difference from PyTorch: {found:.1g}"


def _commit() -> str | None:
    """The commit of the checkout that this package lies in, if it does."""
    root = Path(__file__).parents[2]
    if not (root / ".git").exists():
        return None
    command = ["git", "-C", str(root), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None


def set_exported_model(cfg: Config, path: str, engine: str | None = None) -> list[str]:
    """Put an exported file in the place of a config's model, and leave out what acts on that.

    Args:
        cfg: The config, changed in place.
        path: The file.
        engine: What runs it; by default what is installed.

    Returns:
        The names of the classes that it finds; empty if it has none.

    Raises:
        UsageError: If it cannot be run here, or is a backbone.
    """
    kind = f"{ExportedModel.__module__}.{ExportedModel.__name__}"
    cfg.model = dict(type=kind, path=path, order=channel_order(cfg), engine=engine)
    for key in ("data_preprocessor", "custom_hooks", "load_from", "resume"):
        cfg.pop(key, None)
    return ExportedModel(path, cfg.model.order, engine).classes
