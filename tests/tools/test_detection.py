"""Mask R-CNN trains and tests on shapes through the scripts, as a user starts them."""

import functools
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "configs"


@pytest.fixture(scope="module")
def run(warm):
    return functools.partial(warm.run, timeout=240)


@pytest.fixture(scope="module")
def succeed(run):
    def succeed(*command, cwd):
        result = run(*command, cwd=cwd)
        assert result.code == 0, result.out[-3000:] + result.err[-3000:]
        return result

    return succeed


@pytest.fixture(scope="module")
def work(succeed, tmp_path_factory):
    """A folder with a small ``data/shapes``, where the configs expect it."""
    folder = tmp_path_factory.mktemp("detection")
    script = ROOT / "tools/dataset_converters/make_shapes.py"
    succeed(script, "--images", 16, "--val-images", 6, "--size", 64, cwd=folder)
    return folder


# Two full batches of the 16 images: two iterations.
FEW = ["train_dataloader.batch_size=7", "train_cfg.max_epochs=1", "train_cfg.val_interval=1"]
FEW += [f"{split}_dataloader.num_workers=0" for split in ("train", "val", "test")]


@pytest.mark.slow(reason="trains and tests the demo's own detector")
def test_trains_two_iterations_and_tests(succeed, work):
    config = CONFIGS / "mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
    train = succeed(
        ROOT / "tools/train.py", config, "--work-dir", "run",
        "--cfg-options", *FEW, "default_hooks.logger.interval=1", cwd=work,
    )  # fmt: skip
    log = train.out + train.err
    assert "Epoch(train) [1][2/2]" in log and "loss_mask" in log
    before, _, _ = train.out.partition("Epoch(train)")
    assert before.count("\n") + train.err.count("\n") < 40
    (written,) = (work / "run").glob("*/*.log")
    assert "System environment:" in written.read_text() and "Config:\n" in written.read_text()
    best = work / "run/best_coco_bbox_mAP_epoch_1.pth"
    report = dict(line.split(": ", 1) for line in train.out.rsplit("\n\n", 1)[1].splitlines())
    assert report == {
        "Last checkpoint": str(work / "run/epoch_1.pth"),
        "Best checkpoint": str(best),
        "Log": str(written),
        "Next": f"python tools/test.py {config} {best}",
    }
    assert best.exists()
    test = succeed(
        ROOT / "tools/test.py", config, "run/epoch_1.pth", "--work-dir", "run/test",
        "--out", "metrics.json", "--cfg-options", *FEW, cwd=work,
    )  # fmt: skip
    assert "Average Precision  (AP) @[ IoU=0.50:0.95" in test.out
    assert "\nOutput: metrics.json\n" in test.out
    assert f"export.py {config} run/epoch_1.pth -o model.onnx\n" in test.out
    metrics = json.loads((work / "metrics.json").read_text())
    for kind in ("bbox", "segm"):
        for ap in ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l"):
            assert -1 <= metrics[f"coco/{kind}_{ap}"] <= 1


# One batch of two images, with few regions for heads that are those of COCO.
ONE = ["train_dataloader.dataset.indices=2", "train_dataloader.batch_size=2"]
ONE += ["train_dataloader.num_workers=0", "train_cfg.max_epochs=1"]
ONE += ["model.train_cfg.rpn_proposal.max_per_img=50", "model.train_cfg.rcnn.sampler.num=16"]


@pytest.mark.slow(reason="a training of the whole detector")
def test_fine_tunes_a_detector_on_other_classes(succeed, work):
    coco = Config.fromfile(CONFIGS / "mask-rcnn_hcgnet-b_fpn_1x_coco.py")
    init_default_scope("mmdet")
    detector = MODELS.build(coco.model)
    torch.save(dict(state_dict=detector.state_dict()), work / "coco.pth")
    train = succeed(
        ROOT / "tools/train.py",
        CONFIGS / "mask_rcnn/mask-rcnn_hcgnet-b_fpn_finetune_12e_shapes.py",
        "--work-dir", "tuned", "--no-validate", "--cfg-options", *ONE,
        "load_from=coco.pth", cwd=work,
    )  # fmt: skip
    log = train.out + train.err
    assert "Starting from scratch: 6 tensors (roi_head.bbox_head.fc_cls.weight, " in log
    tuned = torch.load(work / "tuned/epoch_1.pth", map_location="cpu", weights_only=False)
    before, after = detector.state_dict(), tuned["state_dict"]
    changed = {name for name in before if before[name].shape != after[name].shape}
    assert changed == {
        f"roi_head.{layer}.{kind}"
        for layer in ("bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits")
        for kind in ("weight", "bias")
    }
    assert after["roi_head.bbox_head.fc_cls.bias"].shape == (6,)
    frozen = [n for n in before if n.startswith(("backbone.stem", "backbone.stages.0."))]
    assert frozen and all(torch.equal(before[name], after[name]) for name in frozen)
    moved = "backbone.stages.3.7.squeeze1.conv.weight"
    assert not torch.equal(before[moved], after[moved])


@pytest.mark.parametrize("resume", [[], ["--resume"]], ids=["new", "nothing-to-resume"])
def test_no_training_on_a_random_frozen_stem(run, work, resume):
    config = CONFIGS / "mask-rcnn_hcgnet-b_fpn_1x_coco.py"
    result = run(ROOT / "tools/train.py", config, *resume, cwd=work)
    assert result.code == 2
    assert "checkpoints/hcgnet-b_3rdparty_in1k.pth" in result.err
    assert "scratch" in result.err and "Traceback" not in result.err


def test_no_fine_tuning_from_a_checkpoint_without_the_backbone(run, work):
    config = CONFIGS / "mask_rcnn/mask-rcnn_hcgnet-b_fpn_finetune_12e_shapes.py"
    torch.save(dict(state_dict={"backbone.conv1.weight": torch.zeros(1)}), work / "other.pth")
    for load_from, part in (
        ("other.pth", "missing (stem.0.conv.weight"),
        ("None", "load_from=PATH"),
    ):
        result = run(
            ROOT / "tools/train.py", config, "--cfg-options", f"load_from={load_from}", cwd=work
        )
        assert result.code == 2
        assert part in result.err and "Traceback" not in result.err


def test_missing_coco_names_layout_and_override(run, work):
    config = CONFIGS / "mask_rcnn/mask-rcnn_hcgnet-b_fpn_syncbn-all_scratch_6x_coco.py"
    result = run(ROOT / "tools/train.py", config, cwd=work)
    assert result.code == 2
    for part in ("data/coco", "annotations/instances_train2017.json", "train2017", "data_root"):
        assert part in result.err
    assert "Traceback" not in result.err


PANOPTIC = """
_base_ = ["mmdet::panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco.py"]
kinds = dict(num_things_classes=2, num_stuff_classes=1)
model = dict(
    backbone=dict(
        _delete_=True,
        type="mmhcgnet.HCGNet",
        arch=dict(depths=(1, 1, 1, 1), growth_rates=(8, 8, 8, 8)),
        out_indices=(0, 1, 2, 3),
    ),
    neck=dict(in_channels=[72, 44, 30, 23]),
    roi_head=dict(bbox_head=dict(num_classes=2), mask_head=dict(num_classes=2)),
    semantic_head=kinds,
    panoptic_fusion_head=kinds,
)
things = ("box", "bar")
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        data_root="panoptic/",
        ann_file="panoptic.json",
        data_prefix=dict(img="images/", seg="segments/"),
        metainfo=dict(
            classes=(*things, "ground"), thing_classes=things, stuff_classes=("ground",)
        ),
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="LoadPanopticAnnotations", with_bbox=True, with_mask=True, with_seg=True),
            dict(type="Resize", scale=(96, 96), keep_ratio=True),
            dict(type="PackDetInputs"),
        ],
    ),
)
val_dataloader = val_evaluator = val_cfg = test_dataloader = test_evaluator = test_cfg = None
train_cfg = dict(max_epochs=1)
default_hooks = dict(logger=dict(interval=1))
"""


def make_panoptic(folder):
    """Two images of two things on the ground, in COCO's panoptic format."""
    for name in ("images", "segments"):
        (folder / name).mkdir(parents=True)
    rectangles = [(8, 8, 24, 24), (40, 30, 16, 8), (0, 0, 64, 64)]  # the ground is behind them
    annotations = []
    for image in ("0", "1"):
        ids = np.full((64, 64), 3)
        for number, (x, y, w, h) in enumerate(rectangles[:2], 1):
            ids[y : y + h, x : x + w] = number
        colours = np.stack([ids * 0, ids * 0, ids], axis=-1).astype(np.uint8)  # B, G, R
        cv2.imwrite(str(folder / f"segments/{image}.png"), colours)
        cv2.imwrite(str(folder / f"images/{image}.jpg"), colours * 60)
        segments = [
            dict(id=i, category_id=i, bbox=box, area=int((ids == i).sum()), iscrowd=0)
            for i, box in enumerate(rectangles, 1)
        ]
        annotations.append(
            dict(image_id=int(image), file_name=f"{image}.png", segments_info=segments)
        )
    content = dict(
        images=[dict(id=i, file_name=f"{i}.jpg", height=64, width=64) for i in (0, 1)],
        annotations=annotations,
        categories=[
            dict(id=i, name=name, isthing=int(i < 3))
            for i, name in enumerate(("box", "bar", "ground"), 1)
        ],
    )
    (folder / "panoptic.json").write_text(json.dumps(content))


@pytest.mark.slow(reason="a training of one more detector")
def test_trains_on_panoptic_annotations(succeed, tmp_path):
    pytest.importorskip("panopticapi", reason="MMDetection reads panoptic data with panopticapi")
    make_panoptic(tmp_path / "panoptic")
    (tmp_path / "panoptic_fpn.py").write_text(PANOPTIC)
    train = succeed(ROOT / "tools/train.py", "panoptic_fpn.py", "--work-dir", "run", cwd=tmp_path)
    log = train.out + train.err
    assert "Epoch(train) [1][1/1]" in log and "loss_seg" in log and "loss_mask" in log
