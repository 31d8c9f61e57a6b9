import re

import pytest
from mmengine.config import Config

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.cli.preflight import check_ops, check_pretrained_files
from mmhcgnet.engine import configs
from mmhcgnet.engine.configs import check_sections, load_config
from mmhcgnet.errors import MissingFileError, UsageError


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


BROKEN = {
    "bracket.py": ("a = 1\nb = dict(c=2\n", ", line 2, .*SyntaxError: .* was never closed"),
    "words.py": ("a = 1\n\nb c\n", ", line 3, .*SyntaxError: invalid syntax"),
    "name.py": ("a = 1\nb = absent\n", ", line 2, .*NameError: name 'absent' is not defined"),
    "broken.yaml": ("a: 1\nb: [1\nc: 2", r" .*line \d"),
    "broken.json": ('{"a": 1,\n "b" 2}', " .*line 2 column 6"),
}


@pytest.mark.parametrize("base", [False, True], ids=["itself", "base"])
@pytest.mark.parametrize("name", BROKEN)
def test_what_is_wrong_in_a_config_is_told_with_file_and_line(tmp_path, monkeypatch, name, base):
    text, sentence = BROKEN[name]
    (tmp_path / name).write_text(text)
    (tmp_path / "leaf.py").write_text(f"_base_ = './{name}'")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        load_config("leaf.py" if base else name)
    assert re.match(rf"The config \S*\b{re.escape(name)}{sentence}", str(error.value))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600


def test_a_custom_import_that_fails_is_told(tmp_path):
    (tmp_path / "leaf.py").write_text("custom_imports = dict(imports=['absent'])")
    with pytest.raises(UsageError, match=r"leaf\.py cannot be read: ImportError: .*'absent'"):
        load_config(f"{tmp_path}/leaf.py")


def test_cfg_options_are_merged_and_must_be_pairs(tmp_path):
    (tmp_path / "leaf.py").write_text("a = dict(b=[dict(c=1)], d='x')")
    cfg = load_config(f"{tmp_path}/leaf.py", ["a.b.0.c=2", "a.d=None", "e=[1,2]"])
    assert (cfg.a.b[0].c, cfg.a.d, cfg.e) == (2, None, [1, 2])
    with pytest.raises(UsageError, match="key=value, got 'a.d'"):
        load_config(f"{tmp_path}/leaf.py", ["a.d", "y"])


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["a.d=1", "e=[1,2"], r"brackets or quotes in the option e=\[1,2 do not match"),
        (["e=(1,[2)"], r"brackets or quotes in the option e=\(1,\[2\) do not match"),
        (["a.b.1.c=2"], r"options a\.b\.1\.c=2 do not fit .*Index 1 exceeds"),
        (["a.b.c=2"], r"options a\.b\.c=2 do not fit .*TypeError"),
        (["a.d.c=2"], r"options a\.d\.c=2 do not fit .*TypeError"),
        (["a=1", "a.b=2"], r"options a=1 a\.b=2 do not fit .*TypeError"),
    ],
)
def test_cfg_options_that_do_not_fit_are_told(tmp_path, options, sentence):
    (tmp_path / "leaf.py").write_text("a = dict(b=[dict(c=1)], d='x')")
    with pytest.raises(UsageError, match=sentence) as error:
        load_config(f"{tmp_path}/leaf.py", options)
    assert "\n" not in str(error.value)


def test_a_missing_checkpoint_names_what_is_there(tmp_path):
    with pytest.raises(MissingFileError, match="does not exist: name one that does"):
        Checkpoint.open(f"{tmp_path}/epoch_1.pth")
    (tmp_path / "epoch_12.pth").write_text("")
    with pytest.raises(MissingFileError, match=r"holds .*epoch_12\.pth"):
        Checkpoint.open(f"{tmp_path}/epoch_1.pth")


def test_missing_sections_are_named():
    with pytest.raises(UsageError, match="no optim_wrapper and no train_dataloader"):
        check_sections(Config(dict(model=dict())), "model", "optim_wrapper", "train_dataloader")


@pytest.mark.parametrize(
    "scope, name, extra",
    [
        ("mmdet", "MMDetection", r"(onedl|openmmlab)"),
        ("mmseg", "MMSegmentation", r"(onedl,onedl|openmmlab,openmmlab)-mmseg"),
    ],
)
def test_a_toolbox_that_is_not_installed_is_named(scope, name, extra, monkeypatch):
    cfg = Config(dict(default_scope=scope, model=dict()))
    monkeypatch.setattr("mmhcgnet.engine.configs.find_spec", lambda name: None)
    with pytest.raises(
        UsageError, match=rf"needs {name}, which is not installed: .*pip .*\[{extra}\]"
    ):
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
    monkeypatch.setattr(configs, "get_device", lambda: device)
    monkeypatch.setattr(mmcv_ops, "get_compiling_cuda_version", lambda: ops)
    cfg = Config(dict(default_scope=scope))
    if refused:
        with pytest.raises(UsageError, match="CUDA_VISIBLE_DEVICES=''"):
            check_ops(cfg)
    else:
        check_ops(cfg)
