"""What the flags of the command line do to a config."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import deepcopy
from pathlib import Path
from typing import TextIO

from mmengine.config import Config, ConfigDict
from mmengine.device import get_device
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.registry import METRICS

from mmhcgnet.checkpoints.checkpoint import find_file
from mmhcgnet.checkpoints.run_lock import lock_folder
from mmhcgnet.config_dicts import nested_dicts, type_name
from mmhcgnet.engine.configs import toolbox
from mmhcgnet.errors import UsageError

from .launch import launched_rank


def set_work_dir(cfg: Config, work_dir: str | None) -> None:
    """Set the work directory: the flag, else the config's, else ``./work_dirs/<config name>``.

    Raises:
        UsageError: If it is a file.
    """
    if work_dir or not cfg.get("work_dir"):
        name = os.path.splitext(os.path.basename(cfg.filename))[0]
        cfg.work_dir = work_dir or os.path.join("./work_dirs", name)
    if os.path.exists(cfg.work_dir) and not os.path.isdir(cfg.work_dir):
        raise UsageError(f"The work directory {cfg.work_dir} is a file: name a folder.")


def keep_config_copy(cfg: Config) -> None:
    """Let MMEngine write the config of a test next to a training's copy, and not over it."""
    folder, name = os.path.split(cfg.filename)
    super(Config, cfg).__setattr__("_filename", os.path.join(folder, f"test_{name}"))


def claim_work_dir(cfg: Config, training: bool) -> TextIO | None:
    """Make the work directory, and lock it for a training.

    Args:
        cfg: The config, its ``work_dir`` and ``launcher`` set.
        training: Whether the run trains; others may run next to a training.

    Returns:
        What holds the lock, to be kept until the end of the run; ``None`` without one.

    Raises:
        UsageError: If nothing can be written there, or another run trains there.
    """
    if launched_rank(cfg.get("launcher", "none")) > 0:
        return None
    try:
        os.makedirs(cfg.work_dir, exist_ok=True)
        with tempfile.TemporaryFile(dir=cfg.work_dir) as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        raise UsageError(
            f"Nothing can be written to the work directory {cfg.work_dir} "
            f"({error.strerror or error}): free some space, or name another folder."
        ) from error
    return lock_folder(cfg.work_dir) if training else None


def check_output(path: str, cfg: Config | None = None) -> None:
    """Check that a file can be written in the end, before the work for it begins.

    Args:
        path: The file; its folder is made if it does not exist.
        cfg: The config, whose own files are not to be overwritten: annotations, checkpoints.

    Raises:
        UsageError: If it cannot be written, or the config reads it.
    """
    existed = os.path.lexists(path)
    try:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        with open(path, "ab"):
            pass
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    if not existed:
        with suppress(FileNotFoundError):  # another process of the run has done so
            os.unlink(path)
    elif cfg is not None:
        for own in _files_of(cfg):
            if os.path.exists(own) and os.path.samefile(own, path):
                raise UsageError(f"{path} is a file that the config reads: write to another one.")


def check_overwriting(path: str, *sources: str, force: bool, content: bytes | None = None) -> None:
    """Check that writing a file overwrites nothing unasked.

    Args:
        path: The file.
        sources: What it is made of, which is never overwritten: files, or names of weights that
            ship.
        force: Whether any other existing file may be overwritten.
        content: What is to be written, if it is known; where it is there already, all is well.

    Raises:
        MissingFileError: If a source does not exist.
        UsageError: If the file is a source or a folder, or exists.
    """
    if not os.path.exists(path):
        return
    if os.path.isdir(path):
        raise UsageError(f"{path} is a folder: move it away, or name a file.")
    if any(os.path.samefile(find_file(source), path) for source in sources):
        raise UsageError(f"{path} is the file that is read: write to another one, or rename it.")
    if not force and (content is None or Path(path).read_bytes() != content):
        raise UsageError(f"{path} already exists: name another file, or add --force.")


def _files_of(cfg: Config) -> Iterator[str]:
    """All that may be a file in a config."""
    yield cfg.filename or ""
    for node in nested_dicts(cfg._cfg_dict):
        for value in node.values():
            if isinstance(value, str):
                yield value
                yield os.path.join(str(node.get("data_root") or ""), value)


def set_amp_training(cfg: Config) -> None:
    """Train in mixed precision (``--amp``): fp16 on a GPU, bfloat16 on a CPU.

    Raises:
        UsageError: If the config has an optimizer wrapper of its own, or the model is a detector,
            whose boxes MMCV's ops on a CPU take in single precision alone, and there is no
            accelerator.
    """
    kind = type_name(cfg.optim_wrapper)
    if kind not in ("", "OptimWrapper", "AmpOptimWrapper", "BFloat16OptimWrapper"):
        raise UsageError(f"--amp cannot replace the optimizer wrapper {kind}: leave --amp out.")
    if get_device() == "cpu":
        if toolbox(cfg) == "mmdet":
            raise UsageError(
                "--amp trains a detector on a GPU only, and this machine has none: leave --amp out."
            )
        cfg.optim_wrapper.type = "mmhcgnet.BFloat16OptimWrapper"
        cfg.optim_wrapper.pop("loss_scale", None)
        return
    if kind == "BFloat16OptimWrapper":
        return
    cfg.optim_wrapper.type = "AmpOptimWrapper"
    cfg.optim_wrapper.setdefault("loss_scale", "dynamic")


def check_amp_training(cfg: Config) -> None:
    """Check that a config in mixed precision has a GPU to train on.

    Raises:
        UsageError: If there is none.
    """
    if type_name(cfg.optim_wrapper) == "AmpOptimWrapper" and get_device() == "cpu":
        raise UsageError(
            f"The config {cfg.filename} trains in mixed precision, which takes a GPU, and this "
            "machine has none: pass --cfg-options optim_wrapper.type=OptimWrapper for fp32."
        )
    _check_amp_detection(cfg, "val_cfg")


def set_amp_testing(cfg: Config, amp: bool) -> None:
    """Test in mixed precision with ``--amp``, else if the config says so.

    Raises:
        UsageError: If the model is a detector, whose boxes MMCV's ops on a CPU take in single
            precision alone, and there is no accelerator.
    """
    if amp:
        cfg.test_cfg.fp16 = True
    _check_amp_detection(cfg, "test_cfg", "leave --amp out, or " if amp else "")


def _check_amp_detection(cfg: Config, section: str, advice: str = "") -> None:
    detection = toolbox(cfg) == "mmdet"
    if detection and (cfg.get(section) or {}).get("fp16") and get_device() == "cpu":
        raise UsageError(
            "A detector runs in mixed precision on a GPU only, and this machine has none: "
            f"{advice}pass --cfg-options {section}.fp16=False."
        )


def set_auto_scale_lr(cfg: Config) -> None:
    """Scale the learning rate with the batch size of all processes (``--auto-scale-lr``).

    Raises:
        UsageError: If the config does not say for which batch size its learning rate is.
    """
    if "base_batch_size" not in (cfg.get("auto_scale_lr") or {}):
        raise UsageError(
            "--auto-scale-lr needs auto_scale_lr=dict(base_batch_size=N) in the config, with N "
            "the images per step, over all GPUs, for which the learning rate is meant."
        )
    cfg.auto_scale_lr.enable = True


def drop_validation(cfg: Config) -> None:
    """Train without validation (``--no-validate``)."""
    cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None


def set_deploy(cfg: Config) -> None:
    """Test the model in its deployed form (``--deploy``).

    An ``EMAHook``, which could not exchange the weights of a deployed model, is left out: what it
    has saved as ``state_dict`` are the averaged weights already.
    """
    hooks = cfg.get("custom_hooks") or []
    kept = [hook for hook in hooks if not type_name(hook).endswith("EMAHook")]
    cfg.custom_hooks = [*kept, dict(type="mmhcgnet.DeployHook")]


def set_visualization(
    cfg: Config, show: bool, show_dir: str | None, interval: int, wait_time: float
) -> None:
    """Draw the predictions of a test (``--show``, ``--show-dir``).

    MMDetection writes into ``<work dir>/<time>/<show dir>`` and draws every image, MMSegmentation
    writes into ``<show dir>/vis_data/vis_image``. Images of equal names in several folders are
    drawn into folders, too, except by MMSegmentation.

    Raises:
        UsageError: If the config has no hook that draws.
    """
    hook = (cfg.get("default_hooks") or {}).get("visualization")
    if hook is None:
        raise UsageError(
            "--show and --show-dir need default_hooks.visualization in the config, a "
            "DetVisualizationHook (detection), VisualizationHook (classification) or "
            "SegVisualizationHook (segmentation)."
        )
    package = toolbox(cfg)
    if package == "mmdet":
        hook.update(draw=True, show=show, wait_time=wait_time, test_out_dir=show_dir)
    elif package == "mmseg":
        hook.update(draw=True, show=show, wait_time=wait_time, interval=interval)
        if show_dir:
            visualizer = dict(
                type="mmseg.SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")]
            )
            cfg.visualizer = {**visualizer, **(cfg.get("visualizer") or {}), "save_dir": show_dir}
    else:
        hook.update(
            enable=True, show=show, wait_time=wait_time, out_dir=show_dir, interval=interval
        )
    if show_dir and package != "mmseg":
        cfg.custom_hooks = [*(cfg.get("custom_hooks") or []), dict(type="mmhcgnet.ImageNameHook")]


def set_test_time_augmentation(cfg: Config) -> None:
    """Test with the config's ``tta_model`` and ``tta_pipeline``, by default with flips.

    To be called after :func:`set_visualization`.

    Raises:
        UsageError: If the toolbox cannot draw the images or merge what the model predicts, or a
            data set has no pipeline.
    """
    package = toolbox(cfg)
    drawing = (cfg.get("default_hooks") or {}).get("visualization") or {}
    if package != "mmdet" and drawing.get("enable"):
        raise UsageError(
            "MMPretrain cannot draw augmented images: with --tta leave --show and --show-dir out."
        )
    roi_head = cfg.model.get("roi_head") or {}
    if package == "mmdet" and "mask_head" in roi_head and roi_head["mask_head"] is None:
        _allow_dropped_mask_head(cfg)
    if "tta_model" not in cfg:
        cfg.tta_model = _tta_model(cfg, package)
    for dataset in _unwrapped_datasets(cfg.test_dataloader.dataset):
        own = cfg.get("tta_pipeline")
        dataset.pipeline = deepcopy(own) if own else _with_flips(dataset, package)
    cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)


def _tta_model(cfg: Config, package: str | None) -> dict:
    """What merges a toolbox's predictions for an image as it is and flipped."""
    if package == "mmseg":
        return dict(type="mmseg.SegTTAModel")
    if package != "mmdet":
        return dict(type="mmpretrain.AverageClsScoreTTA")
    refused = "MMDetection's test-time augmentation merges boxes and no masks: "
    if (cfg.model.get("roi_head") or {}).get("mask_head"):
        raise UsageError(
            f"{refused}add --cfg-options model.roi_head.mask_head=None test_evaluator.metric=bbox"
        )
    instances = type_name(cfg.model.get("bbox_head")).startswith("RTMDetIns")
    if instances or cfg.model.get("mask_head") or cfg.model.get("panoptic_head"):
        raise UsageError(f"{refused}leave --tta out, as this model predicts masks.")
    nms = dict(type="nms", iou_threshold=0.5)
    return dict(type="mmdet.DetTTAModel", tta_cfg=dict(nms=nms, max_per_img=100))


def _unwrapped_datasets(dataset: ConfigDict) -> Iterator[ConfigDict]:
    """The data sets in wrappers, which repeat or concatenate them."""
    inner = [dataset[key] for key in ("dataset", "datasets") if dataset.get(key)]
    if not inner:
        yield dataset
    for held in inner:
        for child in held if isinstance(held, list | tuple) else [held]:
            yield from _unwrapped_datasets(child)


def _with_flips(dataset: ConfigDict, package: str | None) -> list[dict]:
    """The pipeline of a data set, which gives each image as it is and flipped."""
    if not dataset.get("pipeline"):
        raise UsageError(
            f"--tta flips images in the pipeline of a test set, and {type_name(dataset)} has none "
            "in the config: give it one, or a tta_pipeline to the config."
        )
    *pipeline, pack = deepcopy(dataset.pipeline)
    if package == "mmdet":
        meta_keys = ["img_id", "img_path", "ori_shape", "img_shape", "scale_factor"]
        pack["meta_keys"] = (*meta_keys, "flip", "flip_direction")
    flip = "mmdet.RandomFlip" if package == "mmdet" else "RandomFlip"
    flips = [dict(type=flip, prob=1.0), dict(type=flip, prob=0.0)]
    if package == "mmseg":
        flips.reverse()  # the first one's labels are compared with what is merged
    return [*pipeline, dict(type="TestTimeAug", transforms=[flips, [pack]])]


def _allow_dropped_mask_head(cfg: Config) -> None:
    """Let a detector without its mask head load the checkpoint of one that has it."""
    # A ConfigDict keeps copies: what it is given is not what it holds.
    cfg.default_hooks = cfg.get("default_hooks") or {}
    cfg.default_hooks.setdefault("strict_load", dict(type="mmhcgnet.StrictLoadHook"))
    if cfg.default_hooks.strict_load is not None:
        cfg.default_hooks.strict_load["dropped"] = ["roi_head.mask_head"]


def decide_out_item(out: str | None, out_item: str | None) -> str | None:
    """What ``--out`` of a test writes.

    Args:
        out: The file of ``--out``.
        out_item: ``--out-item``; where it is absent the suffix decides.

    Returns:
        ``"pred"``, ``"metrics"`` or ``None``.

    Raises:
        UsageError: If the two do not go together.
    """
    if out is None:
        if out_item is not None:
            raise UsageError("--out-item says what --out FILE writes: give --out too.")
        return None
    suffix = os.path.splitext(out)[1]
    pickled = suffix in (".pkl", ".pickle")
    item = out_item or ("pred" if pickled else "metrics")
    if suffix not in (".pkl", ".pickle", ".json", ".yaml", ".yml"):
        raise UsageError(f"--out must end in .pkl (predictions) or .json (metrics), got {out}.")
    if item == "pred" and not pickled:
        raise UsageError(f"Predictions are written as a pickle: --out must end in .pkl, got {out}.")
    return item


def dump_predictions(cfg: Config, evaluator: Evaluator, path: str) -> None:
    """Let a test write its predictions to a file."""
    # MMDetection's own dump packs masks as RLE.
    kind = "mmdet.DumpDetResults" if toolbox(cfg) == "mmdet" else "DumpResults"
    evaluator.metrics.append(METRICS.build(dict(type=kind, out_file_path=path)))


def check_metrics(metrics: dict, evaluated: Sequence[BaseMetric]) -> None:
    """Check that a test has measured something.

    Args:
        metrics: What it returned.
        evaluated: What was to measure; some write predictions and no more.

    Raises:
        UsageError: If there are no metrics.
    """
    writers = [
        getattr(metric, "format_only", False) or type(metric).__name__.startswith("Dump")
        for metric in evaluated
    ]
    if not metrics and not all(writers):
        raise UsageError(
            "The test gave no metrics: the model has predicted nothing in any image. Test a "
            "checkpoint that was trained for longer, or lower the score that predictions need "
            "(score_thr in the model's test_cfg)."
        )
