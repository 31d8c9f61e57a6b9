"""Every config of the project builds into what its name says."""

import itertools
import re
import warnings
from pathlib import Path

import mmdet
import pytest
import torch
from mmdet.models.task_modules.prior_generators import anchor_inside_flags
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

import mmhcgnet
from mmhcgnet.engine.configs import shipped_config
from mmhcgnet.engine.hooks.untrained_norm_hook import untrained_norms

CONFIGS = Path(__file__).parents[1] / "configs"
LEAVES = sorted(path for path in CONFIGS.rglob("*.py") if "_base_" not in path.parts)
NAMED = {path.stem: path for path in LEAVES}
# Those that the helper has made of a toolbox's config.
ADAPTED = [path for path in LEAVES if re.search(r'_base_ = \[\s*"\w+::', path.read_text())]
SEGMENTORS = [path for path in LEAVES if path.name.endswith("_ade20k-512x512.py")]
CLASSIFIERS = [path for path in LEAVES if path.name.startswith("hcgnet-")]
PAPER_RECIPE = {"1x": (12, [8, 11]), "2x": (24, [16, 22])}
# Table 1: parameters by network and data set.
PARAMETERS = {
    "a1_cifar10": 1_065_301,
    "a2_cifar10": 3_069_149,
    "a3_cifar10": 11_239_897,
    "a1_cifar100": 1_102_651,
    "a2_cifar100": 3_133_679,
    "a3_cifar100": 11_363_647,
    "b_in1k": 12_845_501,
    "c_in1k": 42_153_208,
}


def load(path):
    cfg = Config.fromfile(path)
    if cfg.default_scope == "mmseg":
        pytest.importorskip("mmseg", reason="MMSegmentation is an optional extra")
    init_default_scope(cfg.default_scope)
    return cfg


def find(name):
    return load(NAMED[name])


def trains_nothing_from_a_batch_of_one(loader):
    endless = loader["sampler"]["type"] == "InfiniteSampler"  # which has no last batch
    return endless or loader.get("drop_last") or loader.get("batch_sampler", {}).get("drop_last")


def without_scope(value):
    """Without the scope that MMEngine notes in what comes of a base named by its toolbox."""
    if isinstance(value, dict):
        return {
            key: without_scope(each)
            for key, each in value.items()
            if key != "_scope_" and each is not None
        }
    return type(value)(map(without_scope, value)) if isinstance(value, list | tuple) else value


def measured(cfg):
    """What a config's test measures."""
    if "test_evaluator" not in cfg:
        return None
    return cfg.test_evaluator.type, cfg.test_evaluator.get("metric")


@pytest.mark.parametrize("path", LEAVES, ids=lambda path: path.stem)
def test_config_builds(path):
    cfg = load(path)
    model = MODELS.build(cfg.model)
    assert next(model.parameters()).numel()
    assert trains_nothing_from_a_batch_of_one(cfg.train_dataloader)
    assert cfg.auto_scale_lr.base_batch_size > 0
    if path.stem.startswith("panoptic"):
        assert measured(cfg) == ("CocoPanopticMetric", None)
    elif cfg.default_scope == "mmdet":
        masks = re.match("(cascade-)?mask", path.stem)
        assert measured(cfg) == ("CocoMetric", ["bbox", "segm"] if masks else "bbox")
    elif path in SEGMENTORS:
        assert measured(cfg) == ("IoUMetric", None)
    elif path in CLASSIFIERS:
        assert measured(cfg) == ("Accuracy", None)
        assert cfg.test_evaluator.topk == ((1, 5) if path.stem.endswith("_in1k") else (1,))
    else:
        assert (path.parent.name, measured(cfg)) == ("simsiam", None)


@pytest.mark.parametrize("path", ADAPTED, ids=lambda path: path.stem)
def test_the_models_of_other_methods_are_those_of_the_helper(path):
    """And all that is not the model's or a guard's is the toolbox's."""
    (base,) = re.findall(r'_base_ = \[\s*"(\w+::[^"]+)"', path.read_text())
    original, cfg = Config.fromfile(shipped_config(base)), Config.fromfile(path)
    weights = cfg.model.backbone.get("init_cfg", {}).get("checkpoint")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted, _ = mmhcgnet.adapt_config(original, pretrained=weights)
    if path.parent.name == "fcos":  # which has the colours of Caffe
        usual = find("atss_hcgnet-b_fpn_1x_coco").model.data_preprocessor
        assert cfg.model.data_preprocessor == usual
        cfg.model.data_preprocessor = adapted.model.data_preprocessor
    assert without_scope(cfg.model) == without_scope(adapted.model)
    assert without_scope(cfg.train_cfg) == dict(original.train_cfg, type=cfg.train_cfg.type)
    for key in ("optim_wrapper", "param_scheduler"):
        assert without_scope(cfg[key]) == without_scope(original[key])
    base_batch = original.get("auto_scale_lr", {}).get("base_batch_size", 256)
    assert cfg.auto_scale_lr.base_batch_size == base_batch


@pytest.mark.parametrize("path", SEGMENTORS, ids=lambda path: path.stem)
def test_segmentors_are_mmsegmentations_with_the_model_of_the_helper(path):
    """Their bases are written out, and differ in nothing but guards and what is saved."""
    cfg = load(path)
    name = path.name.replace(
        "hcgnet-b", "r50-d8" if cfg.model.backbone.get("output_stride") else "r50"
    )
    original = Config.fromfile(shipped_config(f"mmseg::{path.parent.name}/{name}"))
    weights = cfg.model.backbone.init_cfg.checkpoint
    adapted, _ = mmhcgnet.adapt_config(original, pretrained=weights, frozen_stages=-1)
    assert without_scope(cfg.model) == without_scope(adapted.model)
    cfg.train_cfg.type = original.train_cfg.type
    for key in (
        *("default_scope", "env_cfg", "log_processor", "tta_model", "tta_pipeline", "visualizer"),
        *("optim_wrapper", "param_scheduler", "train_cfg", "val_cfg", "test_cfg"),
        *(f"{phase}_dataloader" for phase in ("train", "val", "test")),
        *(f"{phase}_evaluator" for phase in ("val", "test")),
    ):
        assert without_scope(cfg[key]) == without_scope(original[key]), key
    for key in original.default_hooks.keys() - {"checkpoint"}:
        assert cfg.default_hooks[key] == original.default_hooks[key]
    saved = original.default_hooks.checkpoint
    assert {key: cfg.default_hooks.checkpoint[key] for key in saved} == dict(
        saved, type="mmhcgnet.SafeCheckpointHook"
    )


@pytest.mark.parametrize("path", CLASSIFIERS, ids=lambda path: path.stem)
def test_classifiers_are_what_their_names_say(path):
    cfg = load(path)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    arch = path.stem.removeprefix("hcgnet-").split("_")[0]
    data = path.stem.rpartition("_")[2]
    datasets = dict(cifar10="CIFAR10", cifar100="CIFAR100", in1k="ImageNet", shapes="CustomDataset")
    datasets["cifar10-folders"] = "CustomDataset"
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        assert loader.dataset.type == datasets[data]
    assert cfg.model.backbone.arch == arch.upper()
    assert cfg.data_preprocessor.num_classes == model.head.num_classes
    own = {name for name in model.state_dict() if not name.startswith("backbone.")}
    assert own == {"head.fc.weight", "head.fc.bias"}
    if data != "shapes":
        count = sum(p.numel() for p in model.parameters())
        assert count == PARAMETERS[f"{arch}_{data.removesuffix('-folders')}"]


def test_parameters_of_the_papers_detector():
    model = MODELS.build(find("mask-rcnn_hcgnet-b_fpn_1x_coco").model)
    assert sum(p.numel() for p in model.parameters()) == 32_203_109
    assert [conv.in_channels for conv in (c.conv for c in model.neck.lateral_convs)] == list(
        model.backbone.out_channels
    )


@pytest.mark.parametrize("schedule", PAPER_RECIPE)
def test_the_papers_recipe(schedule):
    cfg = find(f"mask-rcnn_hcgnet-b_fpn_{schedule}_coco")
    epochs, milestones = PAPER_RECIPE[schedule]
    assert cfg.train_cfg.max_epochs == epochs
    warm_up, steps = cfg.param_scheduler
    assert (warm_up.type, warm_up.end, warm_up.by_epoch) == ("LinearLR", 500, False)
    assert warm_up.start_factor == pytest.approx(1 / 3)
    assert steps.milestones == milestones
    optimizer = cfg.optim_wrapper.optimizer
    assert (optimizer.type, optimizer.momentum, optimizer.weight_decay) == ("SGD", 0.9, 1e-4)
    # Released: 0.005 for 2 GPUs x 2 images.
    assert optimizer.lr / cfg.auto_scale_lr.base_batch_size == pytest.approx(0.005 / 4)
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=35, norm_type=2)
    assert cfg.train_pipeline[2].scale == (1333, 800)
    backbone = cfg.model.backbone
    assert (backbone.frozen_stages, backbone.norm_eval) == (1, True)


def test_scratch_trains_everything_with_synchronised_norms():
    from torch import nn

    model = MODELS.build(find("mask-rcnn_hcgnet-b_fpn_syncbn-all_scratch_6x_coco").model).train()
    assert all(p.requires_grad for p in model.parameters())
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(isinstance(norm, nn.SyncBatchNorm) and norm.training for norm in norms)


def test_without_weights_the_fine_tuning_config_needs_the_two_settings_that_it_names():
    path = CONFIGS / "mask_rcnn/mask-rcnn_hcgnet-b_fpn_finetune_12e_shapes.py"
    assert "``load_from=None``, ``frozen_stages=-1`` and ``norm_eval=False``" in path.read_text()
    settings = {"model.backbone.frozen_stages": -1, "model.backbone.norm_eval": False}
    for count in (0, 1, 2):
        for some in itertools.combinations(settings, count):
            cfg = Config.fromfile(path)
            cfg.merge_from_dict({key: settings[key] for key in some})
            backbone = MODELS.build(cfg.model.backbone).train()
            assert bool(untrained_norms(backbone)) is (count < 2)


def test_light_detectors_differ_in_the_backbone_alone():
    cfgs = [find(f"mask-rcnn_{b}_fpn-light_scratch_2e_shapes") for b in ("hcgnet-b", "r50")]
    for cfg in cfgs:
        cfg.model.backbone = cfg.model.neck.in_channels = None
    assert cfgs[0].to_dict() == cfgs[1].to_dict()


def test_one_base_file_sets_the_training_loop():
    setting = [p.name for p in CONFIGS.rglob("*.py") if "EpochLoop" in p.read_text()]
    assert setting == ["guards.py"]
    for path in LEAVES:
        loop = Config.fromfile(path).train_cfg
        kind = "Iter" if "max_iters" in loop else "Epoch"
        assert loop.type == f"mmhcgnet.Resumable{kind}Loop"


def test_the_v1_detector_is_mmdetections_legacy_one_without_anchors_across_the_border():
    cfg = find("mask-rcnn_hcgnet-b_fpn_1x_coco_v1")
    model = cfg.model.to_dict()
    folder = Path(mmdet.__file__).parent / ".mim/configs/legacy_1.x"
    legacy = Config.fromfile(folder / "mask-rcnn_r50_fpn_1x_coco_v1.py").model.to_dict()
    assert model["train_cfg"]["rpn"].pop("allowed_border") == 0
    assert legacy["train_cfg"]["rpn"].pop("allowed_border") == -1
    for part in ("rpn_head", "roi_head", "train_cfg", "test_cfg"):
        assert model[part] == legacy[part], part
    today = find("mask-rcnn_hcgnet-b_fpn_1x_coco")
    assert cfg.model.backbone == dict(today.model.backbone, weight_init="pytorch")
    for key in ("optim_wrapper", "param_scheduler", "train_cfg", "train_dataloader"):
        assert cfg[key] == today[key]


def test_no_anchor_of_the_v1_detector_crosses_the_border():
    """As MMDetection 1.x sorted them out before it assigned them to boxes."""
    cfg = find("mask-rcnn_hcgnet-b_fpn_1x_coco_v1")
    border = cfg.model.train_cfg.rpn.allowed_border
    anchors = torch.tensor([[0.0, 0, 9, 9], [-1, 0, 9, 9], [0, 0, 20, 9], [5, 5, 19, 19]])
    inside = anchor_inside_flags(anchors, torch.ones(4).bool(), (20, 20), border)
    assert inside.tolist() == [True, False, False, True]
