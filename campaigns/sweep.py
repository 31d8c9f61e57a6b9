"""HCGNet in the place of the ResNet-50 of every config of the MM toolboxes.

    python -m campaigns.sweep [mmdet mmpretrain mmseg] [--match NAME] [--every N] [--table FILE]

Takes all configs with a ResNet-50 that the installed toolboxes ship (MMSegmentation is optional:
``pip install onedl-mmsegmentation``), adapts them with ``mmhcgnet.adapt_config``, and of each
different model builds HCGNet-B's, computes a loss on two small random images, goes backward and
predicts. What fails is tried once more with the config's own ResNet-50. Every model runs in a
process of its own. Results are appended to a file, and a run goes on where the last one stopped.

With ``--script`` the configs are adapted by ``tools/misc/adapt_config.py``, one file each.
"""

from __future__ import annotations

import argparse
import collections
import copy
import hashlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.logging import MessageHub, MMLogger
from mmengine.model import revert_sync_batchnorm
from torch import nn

import mmhcgnet
from mmhcgnet.config_dicts import nested_dicts, type_name
from mmhcgnet.engine import build_model
from mmhcgnet.engine.adapt import RESNETS
from mmhcgnet.errors import UsageError

TOOLBOXES = ("mmdet", "mmpretrain", "mmseg")
SIZE = (128, 160)  # height and width, multiples of 32
LARGER = (512, 512)  # what is tried where that fails: some have maps of stride 128
LIMIT = 300  # seconds for a model
ROOT = Path(__file__).parents[1]


def find_configs_folder(toolbox: str) -> Path:
    """Where a toolbox that is installed has its configs."""
    return Path(find_spec(toolbox).origin).parent / ".mim/configs"


def find_configs(toolbox: str) -> dict[str, Path]:
    """The configs that a toolbox ships, by their path within ``configs/``."""
    if find_spec(toolbox) is None:
        return {}
    folder = find_configs_folder(toolbox)
    paths = sorted(folder.rglob("*.py"))
    return {
        str(path.relative_to(folder)): path
        for path in paths
        if "_base_" not in path.relative_to(folder).parts
    }


def resnets50(model: Any) -> list[dict]:
    """The ResNet-50s of a model that HCGNet can take the place of."""
    return [
        node
        for node in nested_dicts(model)
        if type_name(node) in RESNETS and node.get("depth") == 50
    ]


def load(path: Path) -> Config | None:
    """Read a config; ``None`` if it cannot be read or has no ResNet-50."""
    try:
        cfg = Config.fromfile(path)
    except Exception:  # some of the toolboxes' own cannot
        return None
    return cfg if resnets50(cfg.get("model")) else None


def tame(cfg: Config) -> Config:
    """Take out of a config what makes its model large or needs the network."""
    cfg = copy.deepcopy(cfg)
    for node in nested_dicts(cfg.model):
        for key in ("init_cfg", "pretrained", "teacher_ckpt", "checkpoint", "batch_augments"):
            if key in node:
                node[key] = None
        if node.get("max_per_img", 0) >= 1000:  # proposals
            node.max_per_img = 50
        if "nms_pre" in node:
            node.nms_pre = min(node.nms_pre, 200)
        if "num" in node and "Sampler" in type_name(node):
            node.num = min(node.num, 64)
        if "teacher_config" in node:  # written from the folder above the toolbox's configs
            node.teacher_config = str(find_configs_folder("mmdet").parent / node.teacher_config)
    preprocessor = cfg.model.get("data_preprocessor") or cfg.get("data_preprocessor") or {}
    if cfg.get("default_scope") == "mmseg":
        preprocessor.update(size=SIZE, size_divisor=None)
    if type_name(cfg.model) == "ImageToImageRetriever":
        cfg.model.prototype = "none"
    return cfg


def identity(cfg: Config) -> str:
    """The same for configs that become models which differ in nothing that matters here."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            cfg, _ = mmhcgnet.adapt_config(cfg)
    except UsageError:
        pass
    model = tame(cfg).model.to_dict()
    for node in nested_dicts(model):
        for key in ("data_preprocessor", "test_cfg", "num_classes", "num_things_classes"):
            node.pop(key, None)
        for key in ("num_stuff_classes", "class_weight", "requires_grad", "loss_weight", "style"):
            node.pop(key, None)
    text = json.dumps(model, sort_keys=True, default=repr)
    return hashlib.sha1(f"{cfg.get('default_scope')} {text}".encode()).hexdigest()[:12]


# What the models read


def detection_inputs(cfg: Config, size: tuple[int, int], batch: int) -> dict:
    """Images and annotations for a detector, segmenter of instances, or tracker."""
    from mmdet.testing import demo_mm_inputs, demo_mm_proposals, demo_track_inputs

    kind = type_name(cfg.model)
    shape = (3, *size)
    if kind in ("QDTrack", "MaskTrackRCNN", "Mask2FormerVideo"):
        data = demo_track_inputs(
            batch, 2, [0], shape, num_items=[3] * batch, num_classes=1, with_mask=kind != "QDTrack"
        )
        return data
    htc = any("HybridTaskCascade" in type_name(node) for node in nested_dicts(cfg.model))
    data = demo_mm_inputs(
        batch,
        [shape] * batch,
        num_items=[4] * batch,
        num_classes=2,
        with_mask=True,
        with_semantic=True,
        sem_seg_output_strides=8 if htc else 1,
    )
    shapes = [shape] * batch
    for sample, proposals in zip(data["data_samples"], demo_mm_proposals(shapes, 20), strict=True):
        if not cfg.model.get("rpn_head"):  # Fast R-CNN
            sample.proposals = proposals
        sample.gt_instances.labels.zero_()  # a class that every model has
        sample.gt_sem_seg.sem_seg[sample.gt_sem_seg.sem_seg > 1] = 0
        sample.set_metainfo(
            dict(
                homography_matrix=np.eye(3, dtype=np.float32),
                batch_input_shape=size,
                pad_shape=size,
            )
        )
    if kind == "SoftTeacher":
        names = ("sup", "unsup_teacher", "unsup_student")
        return {key: {name: copy.deepcopy(value) for name in names} for key, value in data.items()}
    return data


def reid_inputs(batch: int) -> dict:
    """Images of two persons, of the size whose maps the configs pool."""
    from mmdet.structures import ReIDDataSample

    images = [torch.randint(0, 256, (3, 256, 128), dtype=torch.uint8) for _ in range(batch)]
    samples = [ReIDDataSample().set_gt_label(i % 2) for i in range(batch)]
    return dict(inputs=images, data_samples=samples)


def classification_inputs(cfg: Config, size: tuple[int, int], batch: int) -> dict:
    """Images with labels, or two views of each where no labels are read."""
    from mmpretrain.structures import DataSample

    def images(height: int, width: int) -> list[torch.Tensor]:
        return [torch.randint(0, 256, (3, height, width), dtype=torch.uint8) for _ in range(batch)]

    samples = [DataSample().set_gt_label(i % 2) for i in range(batch)]
    if any(node.get("use_sigmoid") for node in nested_dicts(cfg.model)):  # as mixup has them
        for i, sample in enumerate(samples):
            sample.set_gt_score(torch.eye(cfg.model.head.num_classes)[i % 2])
    kind = type_name(cfg.model)
    if "Classifier" in kind or "Retriever" in kind:
        return dict(inputs=images(*size), data_samples=samples)
    sizes = [size] * 2 + ([(64, 64)] * 6 if kind == "SwAV" else [])
    views = [torch.stack(images(*each)).float() for each in sizes]
    return dict(inputs=views, data_samples=samples)


def segmentation_inputs(cfg: Config, size: tuple[int, int], batch: int) -> dict:
    """Images with a map of two classes."""
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample

    data = dict(inputs=[], data_samples=[])
    for _ in range(batch):
        meta = dict(img_shape=size, ori_shape=size, pad_shape=size, flip=False, scale_factor=1.0)
        sample = SegDataSample(metainfo=meta)
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 2, (1, *size)))
        data["inputs"].append(torch.randint(0, 256, (3, *size), dtype=torch.uint8))
        data["data_samples"].append(sample)
    return data


INPUTS = dict(mmdet=detection_inputs, mmpretrain=classification_inputs, mmseg=segmentation_inputs)


# One model


def try_model(cfg: Config, again: bool = False) -> dict:
    """Build a model, compute a loss, go backward and predict.

    Args:
        cfg: A config.
        again: Whether it failed. Now with larger images, in a group of processes, which some ask
            for, and after initialising, which takes long and without which some tensors hold
            anything.

    Returns:
        ``done``: the steps that went well; ``error``: of the one that did not; ``strides``: of the
        maps of every backbone; ``no_gradient``: parameters of backbones that train and got none.
    """
    torch.manual_seed(0)
    done: list[str] = []
    found: dict[str, Any] = dict(done=done, error="", strides={}, no_gradient=[])
    try:
        if again and not torch.distributed.is_initialized():
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        model = revert_sync_batchnorm(build_model(cfg))
        done.append("build")
        if again:
            model.init_weights()
        size = LARGER if again else SIZE
        backbones = {
            name: module
            for name, module in model.named_modules()
            if type(module).__name__ in (*RESNETS, "HCGNet")
        }
        strides: dict[str, list[int]] = {}
        for name, module in backbones.items():
            module.register_forward_hook(_note_strides(strides, name))
        model.train()
        hub = MessageHub.get_current_instance()
        hub.update_info("epoch", 0)
        hub.update_info("iter", 0)
        hub.update_info("max_epochs", 1)
        hub.update_info("max_iters", 1)
        _lose(cfg, model, size)
        done += ["loss", "backward"]
        found["strides"] = strides
        found["no_gradient"] = [
            f"{name}.{key}"
            for name, module in backbones.items()
            for key, parameter in module.named_parameters()
            if parameter.requires_grad and parameter.grad is None
        ]
        model.eval()
        with torch.no_grad():
            _predict(cfg, model, size)
        done.append("predict")
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        found["error"] = f"{reason[:300]} ({Path(place.filename).name}:{place.lineno})"
    return found


def _note_strides(strides: dict, name: str) -> Any:
    def note(module: nn.Module, inputs: tuple, outputs: tuple) -> None:
        strides.setdefault(name, [inputs[0].shape[2] // each.shape[2] for each in outputs])

    return note


def _lose(cfg: Config, model: nn.Module, size: tuple[int, int]) -> None:
    scope, kind = cfg.get("default_scope"), type_name(cfg.model)
    parts = [model]
    if kind in ("DeepSORT", "StrongSORT", "ByteTrack", "OCSORT"):  # trained in parts
        parts = [model.detector, *([model.reid] if getattr(model, "reid", None) else [])]
    for part in parts:
        if type(part).__name__ == "BaseReID":
            data = reid_inputs(4)
        else:
            data = INPUTS[scope](cfg, size, 2)
        data = _stacked(part.data_preprocessor(data, True))
        losses, _ = part.parse_losses(part(**data, mode="loss"))
        if not torch.isfinite(losses):
            raise FloatingPointError(f"the loss is {losses}")
        losses.backward()


def _predict(cfg: Config, model: nn.Module, size: tuple[int, int]) -> None:
    scope, kind = cfg.get("default_scope"), type_name(cfg.model)
    if kind in ("DeepSORT", "StrongSORT", "ByteTrack", "OCSORT"):
        model = model.detector
    if kind == "ImageToImageRetriever":
        model.prototype, model.prototype_inited = None, True
        model.prototype_vecs = torch.rand(3, cfg.model.head.in_channels)
    if kind == "BaseReID":
        data = reid_inputs(1)
    elif kind == "SoftTeacher":
        plain = copy.deepcopy(cfg)
        plain.model = cfg.model.detector
        data, model = INPUTS[scope](plain, size, 1), model.teacher
    else:
        data = INPUTS[scope](cfg, size, 1)
    data = _stacked(model.data_preprocessor(data, False))
    if scope == "mmpretrain" and not hasattr(model, "predict"):
        model.extract_feat(
            data["inputs"][0] if isinstance(data["inputs"], list) else data["inputs"]
        )
    else:
        model(**data, mode="predict")


def _stacked(data: dict) -> dict:
    """Images as one tensor, for a detector whose tracker would prepare them."""
    images = data["inputs"]
    if isinstance(images, list) and all(image.dtype == torch.uint8 for image in images):
        data["inputs"] = torch.stack(images).float() / 255
    return data


def meant_strides(cfg: Config) -> list[int]:
    """The strides of the maps that the ResNets of a config give, in ascending order."""
    found = set()
    for resnet in nested_dicts(cfg.model):
        if type_name(resnet) not in RESNETS:
            continue
        strides = np.cumprod([4, *resnet.get("strides", (1, 2, 2, 2))[1:]])
        scope = str(resnet.type).rpartition(".")[0] or cfg.get("default_scope")
        last = (3,) if scope == "mmpretrain" else (0, 1, 2, 3)
        found |= {int(strides[i]) for i in resnet.get("out_indices", last)}
    return sorted(found)


def run_one(toolbox: str, path: Path, script: bool) -> dict:
    """Adapt a config and try its model, and where that fails the original's."""
    original = Config.fromfile(path)
    begin = time.time()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if script:
                adapted = _through_script(toolbox, path)
            else:
                adapted, _ = mmhcgnet.adapt_config(original)
    except UsageError as error:
        result = dict(done=[], error=f"refused: {error}", strides={}, no_gradient=[])
    else:
        adapted = tame(adapted)
        result = try_model(adapted)
        if "predict" not in result["done"]:
            other = try_model(adapted, again=True)
            result = other if len(other["done"]) >= len(result["done"]) else result
    if "predict" not in result["done"]:
        result["resnet"] = try_model(tame(original))
        if "predict" not in result["resnet"]["done"]:
            result["resnet"] = try_model(tame(original), again=True)
    result["seconds"] = round(time.time() - begin, 1)
    return result


def _through_script(toolbox: str, path: Path) -> Config:
    """Adapt a config with the script, by its name in the toolbox."""
    name = f"{toolbox}::{path.relative_to(find_configs_folder(toolbox))}"
    with tempfile.TemporaryDirectory() as folder:
        child = Path(folder) / "child.py"
        command = [sys.executable, ROOT / "tools/misc/adapt_config.py", name, "-o", child]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
        if done.returncode == 2:
            raise UsageError(done.stderr.strip())
        if done.returncode:
            raise RuntimeError(done.stderr.strip()[-200:])
        return Config.fromfile(child)


# All of them


def _child(connection: Any, *arguments: Any) -> None:
    torch.set_num_threads(1)
    MMLogger.get_instance("sweep", log_level="ERROR")
    try:
        connection.send(run_one(*arguments))
    except BaseException as error:
        connection.send(dict(done=[], error=f"{type(error).__name__}: {error}"[:300], strides={}))


def isolated(*arguments: Any) -> dict:
    """Call :func:`run_one` in a fork of this process."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_child, args=(theirs, *arguments))
    process.start()
    theirs.close()
    try:
        if ours.poll(LIMIT):
            return ours.recv()
        return dict(done=[], error=f"took more than {LIMIT} s", strides={})
    except EOFError:
        return dict(done=[], error="the process died", strides={})
    finally:
        process.kill()
        process.join()


def survey(toolboxes: list[str], match: str = "") -> Iterator[tuple[str, str, Path, Config]]:
    """All configs with a ResNet-50."""
    for toolbox in toolboxes:
        if find_spec(toolbox):
            import_module(f"{toolbox}.models")  # once, for all processes
        for name, path in find_configs(toolbox).items():
            if match in name and (cfg := load(path)) is not None:
                yield toolbox, name, path, cfg


def run(
    toolboxes: list[str], log: Path, match: str = "", every: int = 1, script: bool = False
) -> list[dict]:
    """Try all configs, each different model once.

    Args:
        toolboxes: Packages.
        log: File of results by model, one JSON a line, which is appended to.
        match: Part of the names of the configs to take.
        every: Take each n-th of the different models.
        script: Adapt with ``tools/misc/adapt_config.py``.

    Returns:
        For each config its name, what its model means, and the result.
    """
    known = {}
    if log.exists():
        known = {row["model"]: row for row in map(json.loads, log.read_text().splitlines())}
    rows, models = [], {}
    for toolbox, name, path, cfg in survey(toolboxes, match):
        model = identity(cfg)
        models.setdefault(model, len(models))
        if models[model] % every:
            continue
        if model not in known:
            result = isolated(toolbox, path, script)
            known[model] = dict(model=model, config=f"{toolbox}::{name}", **result)
            with log.open("a") as file:
                file.write(json.dumps(known[model]) + "\n")
            print(f"{len(known)}: {toolbox}::{name}: {verdict(known[model])}", file=sys.stderr)
        meant = meant_strides(cfg)
        rows.append(known[model] | dict(toolbox=toolbox, name=name, meant=meant))
    return rows


def verdict(row: dict) -> str:
    """How a config fares, in words that the table counts."""
    if "predict" in row["done"]:
        return "build, loss, backward, predict"
    if "resnet" in row and len(row["resnet"]["done"]) <= len(row["done"]):
        step = ("build", "loss", "backward", "predict")[len(row["done"])]
        return f"{step} fails with ResNet-50, too"
    return "refused" if row["error"].startswith("refused") else "FAILS"


def at_stride(row: dict) -> bool:
    """Whether the maps have the strides that the config means."""
    obtained = {stride for strides in row["strides"].values() for stride in strides}
    return obtained == set(row["meant"])


def table(rows: list[dict]) -> str:
    """The outcomes by toolbox, and the reasons of what does not run."""
    lines = [
        "| toolbox | outcome | configs | models | at the strides meant |",
        "|---|---|---:|---:|---:|",
    ]
    for toolbox in dict.fromkeys(row["toolbox"] for row in rows):
        ours = [row for row in rows if row["toolbox"] == toolbox]
        for outcome, count in collections.Counter(map(verdict, ours)).most_common():
            these = [row for row in ours if verdict(row) == outcome]
            models = len({row["model"] for row in these})
            right = sum(map(at_stride, these))
            lines.append(f"| {toolbox} | {outcome} | {count} | {models} | {right} |")
    lines += [
        "",
        "| model without a full run | configs | HCGNet | ResNet-50 |",
        "|---|---:|---|---|",
    ]
    failed = {row["model"]: row for row in rows if "predict" not in row["done"]}
    counts = collections.Counter(row["model"] for row in rows)
    for model, row in failed.items():
        other = row.get("resnet", {})
        other = other.get("error") or "runs"
        lines.append(
            f"| {row['config']} | {counts[model]} | {_cell(row['error'])} | {_cell(other)} |"
        )
    silent = {row["config"]: row["no_gradient"] for row in rows if row.get("no_gradient")}
    lines += ["", f"Models with trainable backbone parameters without a gradient: {len(silent)}."]
    lines += [f"- {config}: {len(names)}, such as `{names[0]}`" for config, names in silent.items()]
    return "\n".join(lines) + "\n"


def _cell(text: str) -> str:
    return text.replace("|", "/")[:200]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("toolboxes", nargs="*", default=TOOLBOXES, help="(default: all installed)")
    parser.add_argument("--match", default="", help="part of the names of configs")
    parser.add_argument("--every", type=int, default=1, metavar="N", help="each N-th model only")
    parser.add_argument("--script", action="store_true", help="adapt with the script")
    parser.add_argument("--log", type=Path, default=Path("work_dirs/sweep.jsonl"))
    parser.add_argument("--table", type=Path, help="file for the table (default: print it)")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    os.makedirs(args.log.parent, exist_ok=True)
    rows = run(list(args.toolboxes), args.log, args.match, args.every, args.script)
    text = table(rows)
    if args.table:
        args.table.write_text(text)
    print(text)
    failed = sum(verdict(row) == "FAILS" for row in rows)
    print(f"sweep: {len(rows)} configs, {failed} fail because of HCGNet")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
