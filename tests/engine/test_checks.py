import pytest
from mmengine.config import Config

from mmhcgnet.engine import (
    MissingFileError,
    UsageError,
    check_checkpoint_path,
    check_ops,
    check_pretrained_files,
    check_sections,
    checks,
    load_config,
)


def test_a_misspelt_config_names_the_closest(tmp_path):
    (tmp_path / "classifier.py").write_text("")
    with pytest.raises(MissingFileError, match=rf"did you mean {tmp_path}/classifier.py\?"):
        load_config(f"{tmp_path}/clasifier.py")


def test_a_config_of_the_package_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingFileError, match="configs/mask-rcnn_hcgnet-b_fpn_1x_coco.py"):
        load_config("mask-rcnn_hcgnet_b_fpn_1x_coco.py")


def test_a_config_must_be_a_file_that_mmengine_reads(tmp_path):
    (tmp_path / "config.txt").write_text("")
    for path in (tmp_path, tmp_path / "config.txt"):
        with pytest.raises(UsageError, match="must be a file that ends in .py, .yaml or .json"):
            load_config(str(path))


def test_a_missing_base_is_named(tmp_path):
    (tmp_path / "leaf.py").write_text("_base_ = './absent.py'")
    with pytest.raises(UsageError, match=r"leaf\.py cannot be read: .*absent\.py"):
        load_config(f"{tmp_path}/leaf.py")


def test_cfg_options_are_merged_and_must_be_pairs(tmp_path):
    (tmp_path / "leaf.py").write_text("a = dict(b=[dict(c=1)], d='x')")
    cfg = load_config(f"{tmp_path}/leaf.py", ["a.b.0.c=2", "a.d=None", "e=[1,2]"])
    assert (cfg.a.b[0].c, cfg.a.d, cfg.e) == (2, None, [1, 2])
    with pytest.raises(UsageError, match="key=value, got 'a.d'"):
        load_config(f"{tmp_path}/leaf.py", ["a.d", "y"])


def test_a_missing_checkpoint_names_what_is_there(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist: name one that does"):
        check_checkpoint_path(f"{tmp_path}/epoch_1.pth")
    (tmp_path / "epoch_12.pth").write_text("")
    with pytest.raises(MissingFileError, match=r"holds .*epoch_12\.pth"):
        check_checkpoint_path(f"{tmp_path}/epoch_1.pth")
    check_checkpoint_path(f"{tmp_path}/epoch_12.pth")
    check_checkpoint_path("https://example.com/epoch_1.pth")


def test_missing_sections_are_named():
    with pytest.raises(UsageError, match="no optim_wrapper and no train_dataloader"):
        check_sections(Config(dict(model=dict())), "model", "optim_wrapper", "train_dataloader")


def test_a_toolbox_that_is_not_installed_is_named(monkeypatch):
    cfg = Config(dict(default_scope="mmdet", model=dict()))
    monkeypatch.setattr("mmhcgnet.engine.checks.find_spec", lambda name: None)
    with pytest.raises(UsageError, match="needs MMDetection, which is not installed: .*pip"):
        check_sections(cfg, "model")


@pytest.mark.parametrize(
    "model",
    [
        dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="absent/b.pth"))),
        dict(head=[dict(init_cfg=[dict(type="Pretrained", checkpoint="absent/b.pth")])]),
    ],
)
def test_missing_pretrained_weights_are_found_at_any_depth(model):
    with pytest.raises(MissingFileError, match=r"absent/b\.pth"):
        check_pretrained_files(Config(dict(model=model)).model)


def test_pretrained_weights_behind_a_url_are_left_to_the_loader():
    init_cfg = dict(type="Pretrained", checkpoint="torchvision://resnet50")
    check_pretrained_files(Config(dict(model=dict(init_cfg=init_cfg))).model)


@pytest.mark.parametrize(
    "device, ops, scope, refused",
    [
        ("cuda", "not available", "mmdet", True),
        ("cuda", "not available", "mmpretrain", False),
        ("cuda", "12.8", "mmdet", False),
        ("cpu", "not available", "mmdet", False),
    ],
)
def test_a_gpu_that_the_ops_cannot_use(monkeypatch, device, ops, scope, refused):
    mmcv_ops = pytest.importorskip("mmcv.ops")
    monkeypatch.setattr(checks, "get_device", lambda: device)
    monkeypatch.setattr(mmcv_ops, "get_compiling_cuda_version", lambda: ops)
    cfg = Config(dict(default_scope=scope))
    if refused:
        with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES=''"):
            check_ops(cfg)
    else:
        check_ops(cfg)
