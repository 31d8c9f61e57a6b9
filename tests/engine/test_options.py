from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from mmhcgnet.cli.options import (
    check_amp_training,
    decide_out_item,
    drop_validation,
    set_amp_training,
    set_auto_scale_lr,
    set_test_time_augmentation,
    set_visualization,
    set_work_dir,
)
from mmhcgnet.engine.configs import load_config, set_dataloader_defaults
from mmhcgnet.errors import UsageError

CONFIGS = Path(__file__).parents[2] / "configs"


def test_work_dir_is_the_flag_then_the_configs_then_its_name(tmp_path):
    (tmp_path / "leaf.py").write_text("")
    cfg = Config.fromfile(tmp_path / "leaf.py")
    set_work_dir(cfg, None)
    assert cfg.work_dir == "./work_dirs/leaf"
    cfg.work_dir = "own"
    set_work_dir(cfg, None)
    assert cfg.work_dir == "own"
    set_work_dir(cfg, "flag")
    assert cfg.work_dir == "flag"


@pytest.mark.parametrize(
    "out, out_item, expected",
    [
        (None, None, None),
        ("a.pkl", None, "pred"),
        ("a.json", None, "metrics"),
        ("a.pkl", "metrics", "metrics"),
    ],
)
def test_the_suffix_decides_what_out_writes(out, out_item, expected):
    assert decide_out_item(out, out_item) == expected


@pytest.mark.parametrize(
    "out, out_item", [(None, "pred"), ("a.json", "pred"), ("a.txt", None), ("a", "metrics")]
)
def test_out_refuses_what_it_cannot_write(out, out_item):
    with pytest.raises(UsageError, match="--out"):
        decide_out_item(out, out_item)


def test_a_config_in_mixed_precision_says_how_to_do_without(monkeypatch):
    cfg = Config.fromfile(CONFIGS / "hcgnet/hcgnet-b_2xb128-amp-mixup-lbs-cosine-100e_in1k.py")
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cuda")
    check_amp_training(cfg)
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cpu")
    with pytest.raises(UsageError, match="optim_wrapper.type=OptimWrapper"):
        check_amp_training(cfg)
    cfg.merge_from_dict({"optim_wrapper.type": "OptimWrapper"})
    check_amp_training(cfg)
    build_optim_wrapper(torch.nn.Linear(1, 1), cfg.optim_wrapper)


def test_amp_keeps_a_loss_scale_and_needs_an_accelerator(monkeypatch):
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cuda")
    cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type="SGD"))))
    set_amp_training(cfg)
    assert (cfg.optim_wrapper.type, cfg.optim_wrapper.loss_scale) == ("AmpOptimWrapper", "dynamic")
    cfg.optim_wrapper.loss_scale = 512.0
    set_amp_training(cfg)
    assert cfg.optim_wrapper.loss_scale == 512.0
    with pytest.raises(UsageError, match="cannot replace the optimizer wrapper Other"):
        set_amp_training(Config(dict(optim_wrapper=dict(type="Other"))))
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cpu")
    with pytest.raises(UsageError, match="on a GPU only"):
        set_amp_training(cfg)


def test_auto_scale_lr_needs_a_base_batch_size():
    cfg = Config(dict(auto_scale_lr=dict(base_batch_size=16)))
    set_auto_scale_lr(cfg)
    assert cfg.auto_scale_lr.enable is True
    for cfg in (Config(dict()), Config(dict(auto_scale_lr=dict(enable=False)))):
        with pytest.raises(UsageError, match="base_batch_size"):
            set_auto_scale_lr(cfg)


def test_no_validate_drops_all_three():
    cfg = Config(dict(val_cfg=dict(), val_dataloader=dict(), val_evaluator=dict()))
    drop_validation(cfg)
    assert (cfg.val_cfg, cfg.val_dataloader, cfg.val_evaluator) == (None, None, None)


def loaders(scope, **loader):
    return Config(dict(default_scope=scope, train_dataloader=loader, val_dataloader=None))


def test_classification_loaders_get_mmpretrains_defaults():
    cfg = loaders("mmpretrain", num_workers=2)
    set_dataloader_defaults(cfg)
    assert cfg.train_dataloader == dict(
        num_workers=2,
        pin_memory=torch.cuda.is_available(),
        persistent_workers=True,
        collate_fn=dict(type="default_collate"),
        timeout=300,
    )
    assert cfg.val_dataloader is None


def test_detection_loaders_stay_as_they_are():
    cfg = loaders("mmdet", num_workers=2, persistent_workers=True)
    set_dataloader_defaults(cfg)
    assert cfg.train_dataloader == dict(num_workers=2, persistent_workers=True, timeout=300)


def test_workers_have_to_answer_within_a_time_that_the_config_may_set():
    cfg = loaders("mmdet", num_workers=2, timeout=7)
    set_dataloader_defaults(cfg)
    assert cfg.train_dataloader.timeout == 7
    # PyTorch takes none where there is no worker.
    cfg = loaders("mmdet", num_workers=0, timeout=7)
    set_dataloader_defaults(cfg)
    assert "timeout" not in cfg.train_dataloader


def test_workers_persist_only_where_there_are_any():
    cfg = loaders("mmdet", num_workers=0, persistent_workers=True)
    set_dataloader_defaults(cfg)
    assert cfg.train_dataloader.persistent_workers is False


def test_the_loader_flags_win():
    cfg = loaders("mmpretrain", num_workers=2, pin_memory=True, persistent_workers=True)
    set_dataloader_defaults(cfg, pin_memory=False, persistent_workers=False)
    assert not cfg.train_dataloader.pin_memory and not cfg.train_dataloader.persistent_workers


def test_each_toolbox_has_its_own_drawing_hook():
    for scope, expected in (
        ("mmdet", dict(draw=True, show=False, wait_time=1, test_out_dir="d")),
        ("mmpretrain", dict(enable=True, show=False, wait_time=1, out_dir="d", interval=5)),
    ):
        hooks = dict(visualization=dict(type="Hook"))
        cfg = Config(dict(default_scope=scope, default_hooks=hooks))
        set_visualization(cfg, False, "d", 5, 1)
        assert cfg.default_hooks.visualization == dict(type="Hook", **expected)
    with pytest.raises(UsageError, match="default_hooks.visualization"):
        set_visualization(Config(dict()), True, None, 1, 1)


def detection(**model):
    pipeline = [dict(type="Resize"), dict(type="PackDetInputs")]
    dataset = dict(type="RepeatDataset", dataset=dict(type="CocoDataset", pipeline=pipeline))
    return Config(dict(default_scope="mmdet", model=model, test_dataloader=dict(dataset=dataset)))


def test_flips_are_the_default_test_time_augmentation():
    cfg = detection(type="RetinaNet")
    set_test_time_augmentation(cfg)
    assert cfg.model.type == "DetTTAModel" and cfg.model.module.type == "RetinaNet"
    resize, augment = cfg.test_dataloader.dataset.dataset.pipeline
    flips, (pack,) = augment.transforms
    assert resize.type == "Resize" and [flip.prob for flip in flips] == [1.0, 0.0]
    assert {"flip", "flip_direction", "img_id"} <= set(pack.meta_keys)


def test_the_configs_own_test_time_augmentation_is_used():
    cfg = detection(type="RetinaNet")
    cfg.tta_model = dict(type="Own", weight=2)
    cfg.tta_pipeline = [dict(type="OwnTransform")]
    set_test_time_augmentation(cfg)
    assert cfg.model == dict(type="Own", weight=2, module=dict(type="RetinaNet"))
    assert cfg.test_dataloader.dataset.dataset.pipeline == [dict(type="OwnTransform")]


def test_mmpretrain_cannot_draw_augmented_images():
    cfg = Config(dict(default_scope="mmpretrain", model=dict()))
    cfg.default_hooks = dict(visualization=dict(type="VisualizationHook"))
    set_visualization(cfg, False, "pictures", 1, 2)
    with pytest.raises(UsageError, match="leave --show and --show-dir out"):
        set_test_time_augmentation(cfg)


def test_masks_cannot_be_merged():
    with pytest.raises(UsageError, match="model.roi_head.mask_head=None"):
        set_test_time_augmentation(detection(roi_head=dict(mask_head=dict(type="FCNMaskHead"))))
    set_test_time_augmentation(detection(roi_head=dict(mask_head=None)))


def test_a_base_of_a_package_that_is_not_there_says_how_to_install_it(monkeypatch):
    def absent(path):
        raise ModuleNotFoundError("mmdet is not installed, please install mmdet manually")

    monkeypatch.setattr("mmhcgnet.engine.configs.Config.fromfile", absent)
    with pytest.raises(UsageError, match=r"needs MMDetection, .*mmhcgnet\[(onedl|openmmlab)\]"):
        load_config(str(CONFIGS / "mask-rcnn_hcgnet-b_fpn_1x_coco.py"))
