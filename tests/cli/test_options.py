import os
import sys
from contextlib import nullcontext
from copy import deepcopy
from functools import partial
from inspect import signature
from pathlib import Path

import pytest
import torch
from mmdet.models import RetinaNet
from mmengine.config import Config, ConfigDict
from mmengine.evaluator import Evaluator
from mmengine.hooks import CheckpointHook, EMAHook
from mmengine.model import PretrainedInit
from mmengine.optim import AmpOptimWrapper, OptimWrapper, build_optim_wrapper
from mmengine.registry import MODELS, TRANSFORMS
from mmengine.runner import EpochBasedTrainLoop
from mmpretrain.models import ImageClassifier

from mmhcgnet import HCGNet, NonFiniteHook
from mmhcgnet.cli.default_hooks import set_guards
from mmhcgnet.cli.launch import _refuse_sync_norms
from mmhcgnet.cli.options import (
    check_amp_training,
    check_metrics,
    check_output,
    check_overwriting,
    claim_work_dir,
    decide_out_item,
    drop_validation,
    dump_predictions,
    keep_config_copy,
    set_amp_testing,
    set_amp_training,
    set_auto_scale_lr,
    set_deploy,
    set_test_time_augmentation,
    set_visualization,
    set_work_dir,
)
from mmhcgnet.cli.preflight import (
    check_frozen_backbone,
    check_ops,
    check_pretrained_files,
    check_trainable,
)
from mmhcgnet.engine.configs import (
    check_sections,
    has_deployed_hcgnet,
    load_config,
    parse_value,
    set_dataloader_defaults,
    toolbox,
)
from mmhcgnet.errors import MissingFileError, UsageError

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


BFLOAT16 = "mmhcgnet.BFloat16OptimWrapper"


def test_amp_on_a_cpu_is_bfloat16_for_classifiers(monkeypatch):
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cpu")
    for scale in (dict(), dict(type="AmpOptimWrapper", loss_scale=512.0)):
        cfg = Config(dict(optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1), **scale)))
        set_amp_training(cfg)
        check_amp_training(cfg)
        assert (cfg.optim_wrapper.type, "loss_scale" in cfg.optim_wrapper) == (BFLOAT16, False)
        set_amp_training(cfg)
        assert cfg.optim_wrapper.type == BFLOAT16
    cfg = Config(dict(default_scope="mmdet", optim_wrapper=dict(type="OptimWrapper")))
    with pytest.raises(UsageError, match="on a GPU only"):
        set_amp_training(cfg)
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cuda")
    cfg = Config(dict(optim_wrapper=dict(type=BFLOAT16)))
    set_amp_training(cfg)
    assert cfg.optim_wrapper == dict(type=BFLOAT16)


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
        ("mmseg", dict(draw=True, show=False, wait_time=1, interval=5)),
    ):
        hooks = dict(visualization=dict(type="Hook"))
        cfg = Config(dict(default_scope=scope, default_hooks=hooks))
        set_visualization(cfg, False, "d", 5, 1)
        assert cfg.default_hooks.visualization == dict(type="Hook", **expected)
    with pytest.raises(UsageError, match="default_hooks.visualization.*SegVisualizationHook"):
        set_visualization(Config(dict()), True, None, 1, 1)


@pytest.mark.parametrize("visualizer", [None, dict(type="Own", vis_backends=[], alpha=0.5)])
def test_segmentations_are_saved_where_the_visualizer_saves(visualizer):
    hooks = dict(visualization=dict(type="SegVisualizationHook"))
    cfg = Config(dict(default_scope="mmseg", default_hooks=hooks, visualizer=visualizer))
    set_visualization(cfg, True, None, 1, 1)
    assert cfg.visualizer == visualizer and cfg.default_hooks.visualization.show
    set_visualization(cfg, False, "d", 1, 1)
    by_default = dict(type="mmseg.SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")])
    assert cfg.visualizer == dict(visualizer or by_default, save_dir="d")
    assert "custom_hooks" not in cfg


def detection(**model):
    pipeline = [dict(type="Resize"), dict(type="PackDetInputs")]
    dataset = dict(type="RepeatDataset", dataset=dict(type="CocoDataset", pipeline=pipeline))
    return Config(dict(default_scope="mmdet", model=model, test_dataloader=dict(dataset=dataset)))


def test_flips_are_the_default_test_time_augmentation():
    cfg = detection(type="RetinaNet")
    set_test_time_augmentation(cfg)
    assert cfg.model.type == "mmdet.DetTTAModel" and cfg.model.module.type == "RetinaNet"
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


def concatenated(*sizes):
    """A detector that is tested on several sets, the last of them wrapped once more."""
    sets = [
        dict(
            type="CocoDataset", pipeline=[dict(type="Resize", scale=n), dict(type="PackDetInputs")]
        )
        for n in sizes
    ]
    sets[-1] = dict(type="RepeatDataset", times=1, dataset=sets[-1])
    cfg = detection(type="RetinaNet")
    cfg.test_dataloader.dataset = dict(type="ConcatDataset", datasets=sets)
    return cfg


def test_each_of_several_test_sets_is_augmented_by_its_own_pipeline():
    cfg = concatenated(8, 16, 24)
    set_test_time_augmentation(cfg)
    first, second, third = cfg.test_dataloader.dataset.datasets
    pipelines = [first.pipeline, second.pipeline, third.dataset.pipeline]
    assert [resize.scale for resize, _ in pipelines] == [8, 16, 24]
    assert {augment.type for _, augment in pipelines} == {"TestTimeAug"}
    assert "pipeline" not in cfg.test_dataloader.dataset and "pipeline" not in third

    cfg = concatenated(8, 16)
    cfg.tta_pipeline = [dict(type="OwnTransform")]
    set_test_time_augmentation(cfg)
    first, second = cfg.test_dataloader.dataset.datasets
    assert first.pipeline == second.dataset.pipeline == cfg.tta_pipeline


@pytest.mark.parametrize("given", [dict(), dict(pipeline=None), dict(pipeline=[])])
def test_a_test_set_without_a_pipeline_cannot_be_augmented(given):
    cfg = concatenated(8, 16)
    cfg.test_dataloader.dataset.datasets[0] = ConfigDict(type="mmdet.OwnDataset", **given)
    with pytest.raises(UsageError, match="OwnDataset has none in the config"):
        set_test_time_augmentation(cfg)


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
    set_test_time_augmentation(detection(roi_head=None))


@pytest.mark.parametrize(
    "model",
    [
        dict(type="Mask2Former", panoptic_head=dict(type="Mask2FormerHead")),
        dict(type="SOLO", mask_head=dict(type="SOLOHead")),
        dict(type="RTMDet", bbox_head=dict(type="RTMDetInsSepBNHead")),
    ],
)
def test_masks_that_no_option_takes_away_cannot_be_merged(model):
    with pytest.raises(UsageError, match="merges boxes and no masks: leave --tta out"):
        set_test_time_augmentation(detection(roi_head=None, **model))
    cfg = detection(**model)
    cfg.tta_model = dict(type="Own")
    set_test_time_augmentation(cfg)


def test_a_segmentor_is_augmented_by_its_own_toolbox():
    cfg = concatenated(8, 16)
    cfg.default_scope = "mmseg"
    set_test_time_augmentation(cfg)
    assert cfg.model.type == "mmseg.SegTTAModel" and cfg.model.module.type == "RetinaNet"
    flips, _ = cfg.test_dataloader.dataset.datasets[0].pipeline[-1].transforms
    assert [flip.prob for flip in flips] == [0, 1]


def test_a_base_of_a_package_that_is_not_there_says_how_to_install_it(monkeypatch):
    def absent(path):
        raise ModuleNotFoundError("mmdet is not installed, please install mmdet manually")

    monkeypatch.setattr("mmhcgnet.engine.configs.Config.fromfile", absent)
    with pytest.raises(UsageError, match=r"needs MMDetection, .*mmhcgnet\[(onedl|openmmlab)\]"):
        load_config(str(CONFIGS / "mask-rcnn_hcgnet-b_fpn_1x_coco.py"))


@pytest.mark.parametrize("path", ["file/a.json", "folder", "read-only/a.json"])
def test_what_cannot_be_written_is_noticed_at_the_start(tmp_path, monkeypatch, path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    if path.startswith("read-only"):
        monkeypatch.setattr(os, "makedirs", lambda *_, **__: None)  # root may write anywhere
    with pytest.raises(UsageError, match=f"{path} cannot be written: "):
        check_output(path)


def test_what_the_config_reads_is_not_overwritten(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    for name in ("config.py", "data/train.json", "epoch_1.pth", "results.json"):
        (tmp_path / name).write_text("kept")
    dataset = dict(type="CocoDataset", data_root="data/", ann_file="train.json")
    cfg = Config(
        dict(load_from="epoch_1.pth", train_dataloader=dict(dataset=dict(dataset=dataset))),
        filename="config.py",
    )
    os.symlink("data/train.json", "link.json")
    for name in ("config.py", "data/train.json", "epoch_1.pth", "link.json"):
        with pytest.raises(UsageError, match=f"{name} is a file that the config reads"):
            check_output(name, cfg)
    check_output("results.json", cfg)  # of a run before
    check_output("new/results.json", cfg)
    assert os.listdir("new") == [] and (tmp_path / "data/train.json").read_text() == "kept"


def test_nothing_is_overwritten_unasked(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("source.pth", "other.pth"):
        (tmp_path / name).write_bytes(b"here")
    (tmp_path / "folder.pth").mkdir()
    for force in (False, True):
        with pytest.raises(UsageError, match="source.pth is the file that is read"):
            check_overwriting("source.pth", "other.pth", "./source.pth", force=force)
        with pytest.raises(UsageError, match="folder.pth is a folder"):
            check_overwriting("folder.pth", "source.pth", force=force, content=b"new")
        check_overwriting("new.pth", "source.pth", force=force)
        check_overwriting("other.pth", "source.pth", force=force, content=b"here")
    for content in (None, b"new"):
        with pytest.raises(UsageError, match="other.pth already exists: .* --force"):
            check_overwriting("other.pth", "source.pth", force=False, content=content)
        check_overwriting("other.pth", "source.pth", force=True, content=content)


def test_a_work_directory_is_no_file(tmp_path):
    (tmp_path / "file").touch()
    cfg = Config(dict(), filename=str(tmp_path / "file"))
    with pytest.raises(UsageError, match="file is a file: name a folder"):
        set_work_dir(cfg, str(tmp_path / "file"))


@pytest.mark.parametrize(
    "text, value",
    [
        ("data set/val (2)/", "data set/val (2)/"),
        (" a  b ", "a  b"),
        ("' a b '", " a b "),
        ("[traffic light, 'hot dog', cat]", ["traffic light", "hot dog", "cat"]),
        ("('0','1', 2)", ("0", "1", 2)),
        ('"[(a, b), (c d, 1.5)]"', [("a", "b"), ("c d", 1.5)]),
        ("a b,c", ["a b", "c"]),
        ("a,", ["a"]),
        ("(a,)", ("a",)),
        ("[]", []),
        ("", ""),
        ("'a, b'", "a, b"),
        ("['x, y', z]", ["x, y", "z"]),
        ("5", 5),
        ("'5'", "5"),
        ("1e-4", 1e-4),
        ("-3", -3),
        ("None", None),
        ("true", True),
        ("False", False),
        ("2024_01", "2024_01"),
        ("don't", "don't"),
        ("a=b", "a=b"),
        ("[[1, 2], [3, 4]]", [[1, 2], [3, 4]]),
    ],
)
def test_values_keep_their_spaces_and_quoted_ones_are_strings(text, value):
    parsed = parse_value(text)
    assert parsed == value and type(parsed) is type(value)


@pytest.mark.parametrize("text", ["[1,2", "(a", "[a)(", "['a, b]", "a],b"])
def test_brackets_and_quotes_have_to_match(text, tmp_path):
    (tmp_path / "leaf.py").write_text("a = 1\n")
    with pytest.raises(UsageError, match="do not match"):
        load_config(str(tmp_path / "leaf.py"), [f"b={text}"])


def test_the_home_folder_is_put_in_place_of_a_tilde(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "leaf.py").write_text(
        'test_evaluator = dict(type="CocoMetric", ann_file="~/a.json")\n'
        'val_evaluator = [dict(ann_file="~/b.json", metric="bbox~/")]\n'
        'test_dataloader = dict(dataset=dict(data_prefix=dict(img="~/val")))\n'
    )
    cfg = load_config(str(tmp_path / "leaf.py"), ["load_from=~/c.pth"])
    assert cfg.test_evaluator.ann_file == f"{tmp_path}/a.json"
    assert cfg.val_evaluator == [dict(ann_file=f"{tmp_path}/b.json", metric="bbox~/")]
    assert cfg.test_dataloader.dataset.data_prefix.img == f"{tmp_path}/val"
    assert cfg.load_from == f"{tmp_path}/c.pth"


@pytest.mark.parametrize("section", ["test_cfg", "val_cfg"])
def test_detectors_are_not_tested_in_mixed_precision_on_a_cpu(section, monkeypatch):
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cpu")
    optim_wrapper = dict(type="OptimWrapper")
    testing = partial(set_amp_testing, amp=False)
    check = testing if section == "test_cfg" else check_amp_training
    for scope, refused in (("mmdet", True), ("mmpretrain", False)):
        cfg = Config({"default_scope": scope, section: dict(fp16=True)})
        cfg.optim_wrapper = optim_wrapper
        if refused:
            with pytest.raises(UsageError, match=f"--cfg-options {section}.fp16=False"):
                check(cfg)
        else:
            check(cfg)
    cfg = Config(dict(default_scope="mmdet", test_cfg=dict()))
    with pytest.raises(UsageError, match="leave --amp out"):
        set_amp_testing(cfg, amp=True)
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cuda")
    set_amp_testing(cfg, amp=True)
    assert cfg.test_cfg.fp16 is True


def test_a_detector_without_its_mask_head_loads_a_checkpoint_that_has_it():
    cfg = detection(roi_head=dict(mask_head=None))
    set_test_time_augmentation(cfg)
    set_guards(cfg)
    assert cfg.default_hooks.strict_load.dropped == ["roi_head.mask_head"]
    cfg = detection(roi_head=dict(bbox_head=dict()))
    set_test_time_augmentation(cfg)
    assert "default_hooks" not in cfg


def test_a_test_without_metrics_is_no_success():
    class Metric:
        format_only = False

    class DumpResults:
        pass

    check_metrics(dict(a=1), [Metric()])
    check_metrics({}, [DumpResults()])
    check_metrics({}, [])
    written = Metric()
    written.format_only = True
    check_metrics({}, [written])
    for evaluated in ([Metric()], [DumpResults(), Metric()]):
        with pytest.raises(UsageError, match="gave no metrics"):
            check_metrics({}, evaluated)


# Types as strings and, in MMEngine's new style, as classes


def both(kind, **kwargs):
    """A config by the type's name, by its name with the package, and by the type."""
    return [dict(type=t, **kwargs) for t in (kind.__name__, f"pkg.{kind.__name__}", kind)]


@pytest.mark.parametrize("wrapper", both(OptimWrapper) + both(AmpOptimWrapper))
def test_mixed_precision_is_switched_on_whatever_the_type_is_written_as(wrapper, monkeypatch):
    cfg = Config(dict(optim_wrapper=dict(wrapper)))
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cuda")
    set_amp_training(cfg)
    assert cfg.optim_wrapper.type == "AmpOptimWrapper"
    cfg.optim_wrapper = dict(wrapper)
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cpu")
    if "Amp" in str(wrapper["type"]):
        with pytest.raises(UsageError, match="OptimWrapper"):
            check_amp_training(cfg)
    else:
        check_amp_training(cfg)


@pytest.mark.parametrize("hook", both(EMAHook, momentum=0.1))
def test_deploying_leaves_the_averaging_hook_out_whatever_its_type_is_written_as(hook):
    cfg = Config(dict(custom_hooks=[hook, dict(type="Other")]))
    set_deploy(cfg)
    assert [entry["type"] for entry in cfg.custom_hooks] == ["Other", "mmhcgnet.DeployHook"]


@pytest.mark.parametrize(
    "loop, hook",
    list(zip(both(EpochBasedTrainLoop, max_epochs=1), both(CheckpointHook), strict=True)),
)
def test_guards_replace_what_mmengine_has_whatever_the_type_is_written_as(loop, hook):
    cfg = Config(dict(train_cfg=loop, default_hooks=dict(checkpoint=hook)))
    cfg.custom_hooks = [dict(type=NonFiniteHook)]
    set_guards(cfg)
    assert cfg.train_cfg.type == "mmhcgnet.ResumableEpochLoop"
    assert cfg.default_hooks.checkpoint.type == "mmhcgnet.SafeCheckpointHook"
    assert "non_finite" not in cfg.default_hooks


class OwnDetector(RetinaNet):
    """A detector that is in no toolbox."""


@pytest.mark.parametrize(
    "model, expected",
    [
        (dict(type=RetinaNet), "mmdet"),
        (dict(type=OwnDetector), "mmdet"),
        (dict(type="mmdet.RetinaNet"), "mmdet"),
        (dict(type="mmdet.models.detectors.retinanet.RetinaNet"), "mmdet"),
        (dict(type="RetinaNet", _scope_="mmdet"), "mmdet"),
        (dict(type="own.SemiDetector", detector=dict(type=RetinaNet)), "mmdet"),
        (dict(module=dict(type="own.SemiDetector", detector=dict(type=RetinaNet))), "mmdet"),
        (dict(type=RetinaNet, backbone=dict(type="mmpretrain.ConvNeXt")), "mmdet"),
        (dict(type=ImageClassifier), "mmpretrain"),
        (dict(type="mmseg.EncoderDecoder"), "mmseg"),
        (dict(type="own.Model", backbone=dict(type="mmpretrain.ConvNeXt")), None),
        (dict(), None),
        (None, None),
    ],
)
def test_where_no_scope_names_the_toolbox_the_model_does(model, expected):
    for config in (dict(model=model), dict(model=model, default_scope=None)):
        assert toolbox(Config(config)) == expected
    assert toolbox(Config(dict(model=model, default_scope="mmpretrain"))) == "mmpretrain"
    assert toolbox(Config(dict(model=model, default_scope="own"))) == (expected or "own")


@pytest.fixture
def new_style(tmp_path):
    """A detector's config as upstream writes them now: classes as types, and no scope."""
    (tmp_path / "runtime.py").write_text(
        "from mmdet.engine.hooks import DetVisualizationHook\n\n"
        "default_scope = None\n"
        "default_hooks = dict(visualization=dict(type=DetVisualizationHook))\n"
    )
    (tmp_path / "new.py").write_text(
        "from mmengine.config import read_base\n"
        "from mmdet.datasets import CocoDataset\n"
        "from mmdet.datasets.transforms import PackDetInputs, Resize\n"
        "from mmdet.models import RetinaNet\n\n"
        "with read_base():\n    from .runtime import *\n\n"
        "model = dict(type=RetinaNet)\n"
        "pipeline = [dict(type=Resize, scale=(8, 8)), dict(type=PackDetInputs)]\n"
        "dataset = dict(type=CocoDataset, pipeline=pipeline)\n"
        "test_dataloader = dict(dataset=dataset, num_workers=0)\n"
        "test_cfg = dict(fp16=True)\n"
        "optim_wrapper = dict(type='OptimWrapper')\n"
    )
    return load_config(str(tmp_path / "new.py"))


def test_a_detector_of_the_new_style_is_drawn_and_dumped_as_one(new_style, tmp_path):
    set_visualization(new_style, False, "drawn", 1, 2)
    set_test_time_augmentation(new_style)
    drawing = new_style.default_hooks.visualization
    signature(drawing.pop("type")).bind(**drawing)
    assert drawing.test_out_dir == "drawn"
    TRANSFORMS.build(new_style.test_dataloader.dataset.pipeline[-1])
    assert MODELS.get(new_style.model.type).__name__ == "DetTTAModel"
    set_dataloader_defaults(new_style)
    assert "collate_fn" not in new_style.test_dataloader
    evaluator = Evaluator([])
    dump_predictions(new_style, evaluator, str(tmp_path / "found.pkl"))
    assert type(evaluator.metrics[0]).__name__ == "DumpDetResults"


def test_a_detector_of_the_new_style_is_refused_what_the_cpu_cannot_do(new_style, monkeypatch):
    monkeypatch.setattr("mmhcgnet.cli.options.get_device", lambda: "cpu")
    with pytest.raises(UsageError, match="--amp trains a detector on a GPU only"):
        set_amp_training(new_style)
    with pytest.raises(UsageError, match="--cfg-options test_cfg.fp16=False"):
        set_amp_testing(new_style, amp=False)
    monkeypatch.setattr("mmhcgnet.cli.preflight.ops_lack_the_gpu", lambda: True)
    with pytest.raises(UsageError, match="MMCV's ops"):
        check_ops(new_style)


class WithoutMMSegmentation:
    """A finder of modules that has MMSegmentation missing, whether or not it is installed."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name.partition(".")[0] == "mmseg":
            raise ModuleNotFoundError(f"No module named '{name}'", name=name)


@pytest.fixture
def without_mmsegmentation(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "mmseg"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(sys, "meta_path", [WithoutMMSegmentation, *sys.meta_path])
    monkeypatch.setattr("mmhcgnet.engine.configs.find_spec", lambda name: None)


@pytest.mark.usefixtures("without_mmsegmentation")
def test_a_class_that_cannot_be_imported_is_reported_in_one_sentence(tmp_path):
    path = tmp_path / "new.py"
    (tmp_path / "runtime.py").write_text("default_scope = None\n")
    runtime = (
        "from mmengine.config import read_base\nwith read_base():\n    from .runtime import *\n"
    )
    for package, words in (
        ("mmseg", "needs MMSegmentation"),
        ("nowhere", "cannot be read: .*nowhere"),
    ):
        path.write_text(f"{runtime}from {package}.models import Own\nmodel = dict(type=Own)\n")
        with pytest.raises(UsageError, match=words):
            load_config(str(path))


@pytest.mark.usefixtures("without_mmsegmentation")
def test_a_toolbox_that_is_missing_is_named_by_the_model_alone():
    with pytest.raises(UsageError, match="MMSegmentation, which is not installed"):
        check_sections(Config(dict(model=dict(type="mmseg.EncoderDecoder"))), "model")


def test_default_hooks_may_be_none():
    cfg = Config(dict(default_hooks=None, default_scope="mmpretrain", model=dict()))
    cfg.test_dataloader = dict(dataset=dict(pipeline=[dict(type="PackInputs")]))
    set_test_time_augmentation(cfg)
    set_guards(cfg)
    assert cfg.default_hooks.checkpoint.type == "mmhcgnet.SafeCheckpointHook"
    with pytest.raises(UsageError, match="default_hooks.visualization"):
        set_visualization(Config(dict(default_hooks=None)), True, None, 1, 1)


@pytest.mark.parametrize("norm", both(torch.nn.SyncBatchNorm) + both(torch.nn.BatchNorm2d))
def test_synchronised_norms_are_found_whatever_their_type_is_written_as(norm):
    cfg = Config(dict(model=dict(backbone=dict(norm_cfg=norm))))
    synchronised = "Sync" in str(norm["type"])
    message = r"model\.backbone\.norm_cfg\.type=BN"
    with pytest.raises(UsageError, match=message) if synchronised else nullcontext():
        _refuse_sync_norms(cfg)


@pytest.mark.parametrize("network", both(HCGNet, arch="A1", frozen_stages=1))
@pytest.mark.parametrize(
    "nest, key",
    [
        (lambda b: dict(backbone=b), "model.backbone"),
        (lambda b: dict(detector=dict(backbone=b)), "model.detector.backbone"),
        (lambda b: dict(backbone=dict(type="Other", inner=[b])), "model.backbone.inner.0"),
    ],
)
def test_a_frozen_backbone_needs_weights_wherever_it_is(network, nest, key):
    cfg = Config(dict(model=nest(dict(network))))
    assert has_deployed_hcgnet(cfg) is False
    with pytest.raises(UsageError, match=f"{key}.frozen_stages=1"):
        check_frozen_backbone(cfg)
    for pretrained in both(PretrainedInit, checkpoint="gone.pth"):
        network = dict(network, init_cfg=pretrained)
        check_frozen_backbone(Config(dict(model=nest(network))))
    cfg = Config(dict(model=nest(dict(network, deploy=True))))
    with pytest.raises(UsageError, match="deploy"):
        check_trainable(cfg)


@pytest.mark.parametrize("kind", ["Pretrained", PretrainedInit])
def test_pretrained_files_have_to_exist_whatever_their_type_is_written_as(kind):
    model = ConfigDict(neck=[dict(init_cfg=dict(type=kind, checkpoint="gone.pth"))])
    with pytest.raises(MissingFileError, match="gone.pth"):
        check_pretrained_files(model)


def test_a_test_writes_its_config_next_to_that_of_the_training(tmp_path):
    (tmp_path / "mine.py").write_text("work_dir = 'work'")
    cfg = Config.fromfile(tmp_path / "mine.py")
    keep_config_copy(cfg)
    assert deepcopy(cfg).filename == f"{tmp_path}/test_mine.py" and cfg.work_dir == "work"


@pytest.mark.parametrize("kind", ["file", "below a file", "dangling"])
def test_a_work_directory_where_nothing_can_be_written(tmp_path, kind):
    (tmp_path / "file").write_text("here")
    (tmp_path / "dangling").symlink_to(tmp_path / "absent" / "too")
    path = dict(file="file", dangling="dangling").get(kind, "file/below")
    with pytest.raises(UsageError, match="Nothing can be written to the work directory"):
        claim_work_dir(Config(dict(work_dir=f"{tmp_path}/{path}")), training=True)


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="/proc is Linux's")
def test_a_work_directory_that_is_read_only():
    with pytest.raises(UsageError, match="Nothing can be written to the work directory /proc/new"):
        claim_work_dir(Config(dict(work_dir="/proc/new")), training=True)


def test_a_work_directory_that_takes_no_more(tmp_path):
    resource = pytest.importorskip("resource", reason="limits are Unix's")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024, before[1]))  # as with a disk that is full
    try:
        with pytest.raises(UsageError, match="Nothing can be written .*: free some space"):
            claim_work_dir(Config(dict(work_dir=str(tmp_path))), training=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_a_training_claims_its_folder_and_a_test_does_not(tmp_path):
    cfg = Config(dict(work_dir=f"{tmp_path}/new"))
    with claim_work_dir(cfg, training=True):
        assert claim_work_dir(cfg, training=False) is None
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["run.lock"]
