"""Trains the configs of all methods for two iterations and tests them, on tiny shapes.

    python -m campaigns.methods [--match NAME]

The methods are those that HCGNet is the backbone of besides the paper's own: detectors, segmentors
and training without labels. Those of a toolbox that is not installed are skipped. Each runs as its
config says, but for the data (four images to train and two to test with), fewer queries and
proposals, and weights that start from scratch.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from helpers.warm import Warm
from mmengine.config import Config

from mmhcgnet.config_dicts import nested_dicts, type_name
from mmhcgnet.datasets import shapes

ROOT = Path(__file__).parents[1]
SIZE = (96, 96)
PATIENCE = 600  # seconds for a run
OWN = ("hcgnet", "mask_rcnn")  # the paper's own methods, which the tests train
CLASSES = dict(classes=shapes.CATEGORIES)
SEMANTIC_CLASSES = dict(
    classes=(*shapes.CATEGORIES, *shapes.BACKGROUNDS),
    palette=[*shapes.METAINFO["palette"], *shapes.BACKGROUND_PALETTE],
)
PANOPTIC_CLASSES = dict(
    SEMANTIC_CLASSES, thing_classes=shapes.CATEGORIES, stuff_classes=shapes.BACKGROUNDS
)


def find_configs(match: str = "") -> list[Path]:
    """The configs of the methods whose names contain ``match``."""
    paths = sorted((ROOT / "configs").glob("*/*.py"))
    return [
        path
        for path in paths
        if path.parent.name not in (*OWN, "_base_") and match in str(path.relative_to(ROOT))
    ]


def write_data(folder: Path) -> None:
    """Write four images to train and two to test with, labelled in all ways."""
    options = dict(images=4, val_images=2, size=64)
    shapes.write_panoptic(folder / "panoptic", **options)
    shapes.write_classification(folder / "classification", images=5, val_images=5, size=64)


def shrink(cfg: Config, data: Path) -> Config:
    """Change a config such that it trains two iterations on what :func:`write_data` has written."""
    for node in nested_dicts(cfg.model):
        if type_name(node) == "HCGNet":
            node.update(frozen_stages=-1, norm_eval=False, init_cfg=None)
        if type_name(node) == "SyncBN":
            node.type = "BN"
        _shrink_classes(node)
        if "score_thr" in node:  # so that there are predictions
            node["score_thr"] = 0.0
        for key, most in dict(
            num_queries=30, max_per_img=20, num_dn_queries=10, nms_pre=100
        ).items():
            if isinstance(node.get(key), int):
                node[key] = min(node[key], most)
    preprocessor = cfg.model.get("data_preprocessor") or {}
    for augment in preprocessor.get("batch_augments") or []:
        augment["size"] = SIZE
    if "size" in preprocessor:  # MMSegmentation's
        preprocessor["size"] = SIZE
    for name in ("train", "val", "test"):
        if loader := cfg.get(f"{name}_dataloader"):
            _shrink_loader(loader, name, data)
    for name in ("val_evaluator", "test_evaluator"):
        if evaluator := cfg.get(name):
            _shrink_evaluator(evaluator, data)
    if "max_iters" in cfg.train_cfg:
        cfg.train_cfg.update(max_iters=2, val_interval=2, dynamic_intervals=None)
        cfg.default_hooks.checkpoint.interval = 2
    else:
        cfg.train_cfg.max_epochs = 1
        cfg.default_hooks.checkpoint.interval = 1
    cfg.default_hooks.logger.interval = 1
    return cfg


def _shrink_classes(node: dict) -> None:
    things, backgrounds = len(shapes.CATEGORIES), len(shapes.BACKGROUNDS)
    numbers = dict(num_classes={80: things, 150: things + backgrounds})
    numbers |= dict(num_things_classes={80: things})
    numbers |= dict(num_stuff_classes={53: backgrounds})
    for key, changes in numbers.items():
        if node.get(key) in changes:
            node[key] = changes[node[key]]
    if len(weights := node.get("class_weight") or []) == 81:  # of Mask2Former
        node["class_weight"] = [*weights[:things], weights[-1]]


def _shrink_loader(loader: dict, name: str, data: Path) -> None:
    split = "train" if name == "train" else "val"
    dataset = loader["dataset"]
    panoptic = str(data / "panoptic")
    pipeline = [_shrink_transform(transform) for transform in dataset["pipeline"]]
    common = dict(data_root=panoptic, pipeline=pipeline, test_mode=split == "val")
    kind = type_name(dataset)
    if kind == "CocoDataset":
        dataset = dict(
            type=kind,
            ann_file=f"annotations/instances_{split}.json",
            data_prefix=dict(img=f"{split}/"),
            metainfo=CLASSES,
            **common,
        )
    elif kind == "CocoPanopticDataset":
        dataset = dict(
            type=kind,
            ann_file=f"annotations/panoptic_{split}.json",
            data_prefix=dict(img=f"{split}/", seg=f"annotations/panoptic_{split}/"),
            metainfo=PANOPTIC_CLASSES,
            **common,
        )
    elif kind == "ADE20KDataset":
        dataset = dict(
            type="BaseSegDataset",
            data_prefix=dict(img_path=split, seg_map_path=f"semantic/{split}"),
            img_suffix=".png",
            metainfo=SEMANTIC_CLASSES,
            **common,
        )
    else:  # ImageNet without its labels
        images = str(data / "classification")
        dataset = dict(
            type="CustomDataset",
            data_root=images,
            data_prefix=split,
            with_label=False,
            pipeline=pipeline,
        )
    loader["dataset"] = dataset
    loader.update(num_workers=0, persistent_workers=False)
    if split == "train":
        loader.update(batch_size=2, drop_last=True)
        loader.pop("batch_sampler", None)  # two groups of images by their ratio


def _shrink_transform(transform: Any) -> Any:
    """A transform with small sizes, and those within it."""
    if isinstance(transform, list | tuple):
        return [_shrink_transform(each) for each in transform]
    if not isinstance(transform, dict):
        return transform
    transform = {key: _shrink_transform(value) for key, value in transform.items()}
    kind = transform.get("type")
    for key in ("scale", "crop_size"):
        if key in transform:
            transform[key] = SIZE[0] if isinstance(transform[key], int) else SIZE
    if "reduce_zero_label" in transform:
        transform["reduce_zero_label"] = False
    if kind == "RandomChoiceResize":
        transform["scales"] = [SIZE, (64, 64)]
    if kind == "RandomCrop" and transform.get("crop_type") == "absolute_range":
        transform["crop_size"] = (48, 64)
    return transform


def _shrink_evaluator(evaluator: dict, data: Path) -> None:
    annotations = data / "panoptic/annotations"
    if type_name(evaluator) == "CocoMetric":
        evaluator["ann_file"] = str(annotations / "instances_val.json")
    elif type_name(evaluator) == "CocoPanopticMetric":
        evaluator["ann_file"] = str(annotations / "panoptic_val.json")
        evaluator["seg_prefix"] = str(annotations / "panoptic_val")


def missing_toolbox(path: Path) -> str:
    """The package that a config needs and that is not installed, and nothing if it is there."""
    scope = Config.fromfile(path).default_scope
    return "" if find_spec(scope) else scope


def try_config(warm: Warm, path: Path, folder: Path) -> str:
    """Train and test a config in a folder that :func:`write_data` has filled.

    Returns:
        What has failed, and nothing if all went well.
    """
    cfg = shrink(Config.fromfile(path), folder)
    small, work_dir = folder / f"{path.stem}.py", folder / path.stem
    cfg.dump(small)
    result = warm.run(
        ROOT / "tools/train.py", small, "--work-dir", work_dir, cwd=folder, timeout=PATIENCE
    )
    log = result.out + result.err
    trained = re.findall(r"(?:Epoch|Iter)\(train\).* loss: (-?[\d.]+|nan|inf)", log)
    if result.code or len(trained) != 2:
        return f"training ended with {result.code} after {len(trained)} iterations: {log[-1500:]}"
    if "test_dataloader" not in cfg:
        return ""
    (checkpoint,) = (p for p in work_dir.glob("*_[12].pth") if not p.name.startswith("best"))
    arguments = (small, checkpoint, "--work-dir", work_dir / "test")
    result = warm.run(ROOT / "tools/test.py", *arguments, cwd=folder, timeout=PATIENCE)
    log = result.out + result.err
    measured = re.findall(r"(coco/bbox_mAP|coco/segm_mAP|coco_panoptic/PQ|mIoU): +-?[\d.]+", log)
    if result.code or not measured:
        return f"the test ended with {result.code} and measured nothing: {log[-1500:]}"
    return ""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--match", default="", help="part of the paths of the configs to try")
    args = parser.parse_args()
    failed, passed = [], []
    with tempfile.TemporaryDirectory() as name, Warm() as warm:
        folder = Path(name)
        write_data(folder)
        for path in find_configs(args.match):
            if package := missing_toolbox(path):
                print(f"{path.stem}: skipped, as {package} is not installed", flush=True)
                continue
            problem = try_config(warm, path, folder)
            (failed if problem else passed).append(path.stem)
            print(f"{path.stem}: {problem or 'trained and tested'}", flush=True)
    print(f"methods: {len(passed)} configs trained and tested, {len(failed)} failed")
    sys.exit(bool(failed or not passed))


if __name__ == "__main__":
    main()
