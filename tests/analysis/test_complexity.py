"""Parameters and multiply-adds: against arithmetic, MMEngine's counter and the paper's table 4."""

import copy

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.nn.modules.batchnorm import _BatchNorm

from mmhcgnet import HCGNet
from mmhcgnet.analysis import paper
from mmhcgnet.analysis.complexity import comparison as compare
from mmhcgnet.analysis.complexity import counting as complexity
from mmhcgnet.engine.configs import load_config, shipped_config
from mmhcgnet.engine.models import build_model
from mmhcgnet.errors import UsageError

TINY = dict(depths=(1, 1, 1, 1), growth_rates=(8, 8, 8, 8))
TINY_CHANNELS = [72, 44, 30, 23]
SMALL = dict(depths=(1, 2, 1), growth_rates=(8, 8, 16), stem="cifar")


def small_detector():
    cfg = load_config("mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes")
    cfg.model.backbone.arch = TINY
    cfg.model.neck.in_channels = TINY_CHANNELS
    return build_model(cfg)


class Layers(nn.Module):
    """One of each kind, of which the multiply-adds are easily told."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8))
        self.deconv = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.attention = nn.Identity()
        self.fc = nn.Linear(4, 5)

    def forward(self, x):
        x = self.deconv(self.depthwise(self.conv(x)))
        tokens = x.flatten(2).transpose(1, 2)  # (1, H*W, 4)
        tokens = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return self.fc(tokens.mean(1)).softmax(1)


def test_counts_are_those_of_arithmetic():
    counts = complexity.count(Layers(), (3, 6, 10))
    assert counts["conv"].multiply_adds == 3 * 5 * (8 * 3 * 9)
    assert counts["depthwise"].multiply_adds == 3 * 5 * (8 * 9)  # the norm is not counted
    assert counts["deconv"].multiply_adds == 3 * 5 * (8 * 4 * 4)  # positions of the input
    assert counts["fc"] == complexity.Complexity(params=25, multiply_adds=20, products=0)
    whole = counts.pop("")
    assert whole.params == 27 * 8 + 8 + 72 + 8 + 16 + 128 + 4 + 25
    assert whole.multiply_adds == sum(part.multiply_adds for part in counts.values())
    # Attention: scores and weighted sums of 60 tokens with 4 entries.
    assert whole.products == 2 * 60 * 60 * 4


def test_a_model_stays_as_it_is():
    model = HCGNet(SMALL, out_indices=(0, 2)).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    complexity.count(model, (3, 16, 24))
    complexity.count_by_tracing(model, (3, 16, 24))
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert "forward" not in vars(model)


class LooksAtItsData(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)

    def forward(self, x):
        chosen = x.flatten(2)[0].T[(x[0, 0] == 0).flatten()]
        return self.fc(chosen)


def test_what_depends_on_the_data_is_computed():
    counts = complexity.count(LooksAtItsData(), (3, 4, 5))
    assert counts[""].multiply_adds == 20 * 3 * 2


def test_a_true_mistake_comes_up():
    with pytest.raises(RuntimeError, match="channels"):
        complexity.count(HCGNet(SMALL), (1, 16, 16))


@pytest.mark.parametrize(
    "make, shape",
    [
        (lambda: HCGNet(SMALL, out_indices=(0, 1, 2)), (3, 20, 36)),
        (small_detector, (3, 64, 96)),
    ],
    ids=["backbone", "detector"],
)
def test_mmengine_counts_the_same(make, shape):
    model = make()
    counts = complexity.count(model, shape)
    whole = counts.pop("")
    assert whole.products > 0
    assert complexity.count_by_tracing(model, shape) == whole.multiply_adds + whole.products
    for kind in ("params", "multiply_adds", "products"):
        assert getattr(whole, kind) == sum(getattr(part, kind) for part in counts.values())


def test_the_second_stage_gets_as_many_proposals_as_the_first_may_hand_on():
    few, many = small_detector(), small_detector()
    many.test_cfg.rpn.max_per_img = 250
    few, many = (complexity.count(model, (3, 64, 96)) for model in (few, many))
    for part in ("backbone", "neck", "rpn_head"):
        assert few[part] == many[part]
    # 100 RoIs have masks in both; the box head is a convolution on 7 x 7 and three layers.
    per_box = 49 * 64 * 64 * 9 + 49 * 64 * 256 + 256 * (6 + 4)
    difference = many["roi_head"].multiply_adds - few["roi_head"].multiply_adds
    assert difference == (250 - 100) * per_box


@pytest.mark.parametrize("name", ["cascade_rcnn/cascade-mask-rcnn_r50", "htc/htc_r50"])
def test_a_cascade_gives_masks_to_as_many_whatever_the_proposals(name):
    """The forward pass of MMDetection's cascades would give masks to all proposals."""
    cfg = Config.fromfile(shipped_config(f"mmdet::{name}_fpn_1x_coco.py"))
    cfg.model.backbone = dict(type="mmhcgnet.HCGNet", arch=TINY, out_indices=(0, 1, 2, 3))
    cfg.model.neck.in_channels = TINY_CHANNELS
    for head in cfg.model.roi_head.bbox_head:
        head.fc_out_channels = 16
    few = build_model(cfg)
    many = copy.deepcopy(few)
    few.test_cfg.rpn.max_per_img = 150
    few, many = (complexity.count(model, (3, 64, 96))[""].multiply_adds for model in (few, many))
    per_box = 49 * 256 * 16 + 16 * 16 + 16 * (81 + 4)
    assert many - few == 3 * (1000 - 150) * per_box


@pytest.mark.parametrize(
    "pipeline, expected",
    [
        ([dict(type="ResizeEdge", scale=256), dict(type="CenterCrop", crop_size=224)], (224, 224)),
        ([dict(type="mmpretrain.EfficientNetCenterCrop", crop_size=300)], (300, 300)),
        ([dict(type="Resize", scale=(1333, 800), keep_ratio=True)], (800, 1344)),
        ([dict(type="Resize", scale=(90, 60)), dict(type="Pad", size=(96, 64))], (64, 96)),
    ],
)
def test_the_shape_is_that_of_the_configs_own_test(pipeline, expected):
    cfg = Config(
        dict(
            model=dict(data_preprocessor=dict(pad_size_divisor=32 if expected[0] == 800 else 1)),
            test_dataloader=dict(dataset=dict(type="Wrapper", dataset=dict(pipeline=pipeline))),
        )
    )
    assert complexity.input_shape(cfg) == (3, *expected)


def test_the_shape_of_data_that_nothing_resizes():
    dataset = dict(type="CIFAR10", pipeline=[dict(type="PackInputs")])
    cfg = Config(dict(model=dict(), test_dataloader=dict(dataset=dataset)))
    assert complexity.input_shape(cfg) == (3, 32, 32)
    dataset["type"] = "CustomDataset"
    cfg = Config(
        dict(model=dict(backbone=dict(in_channels=1)), test_dataloader=dict(dataset=dataset))
    )
    with pytest.raises(UsageError, match="give a shape"):
        complexity.input_shape(cfg)
    assert complexity.input_shape(cfg, (5, 7)) == (1, 5, 7)


def test_layers_of_mmcv_are_named():
    from mmcv.ops import DeformConv2dPack

    model = nn.Sequential(DeformConv2dPack(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1))
    assert complexity.uncounted_layers(model) == ["DeformConv2dPack"]


# --- table 4 -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def coco():
    return compare.compare_coco()


@pytest.mark.slow(reason="whole detectors at the size of COCO")
def test_the_papers_ratio_of_flops(coco):
    theirs, ours = compare.flops_ratios(coco)
    assert theirs == pytest.approx(230.4 / 275.6)
    assert ours == pytest.approx(theirs, rel=0.02)


def count_as_mmdetection_1(config):
    """FLOPs in G as MMDetection 1.x counted them, module by module.

    Besides multiply-adds: biases, two operations of a norm, one of a ReLU and of a pooled entry; a
    transposed convolution at every position of its output, which is four times too many here.
    """
    model = build_model(load_config(config))
    probe, image = complexity._without_data(model, compare.COCO_SHAPE)
    total = 0

    def add(module, inputs, output):
        nonlocal total
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            total += module.weight.numel() * len(output) * output.shape[2:].numel()
            total += 0 if module.bias is None else output.numel()
        elif isinstance(module, nn.Linear):
            total += module.weight.numel() * len(output)
        elif isinstance(module, _BatchNorm):
            total += 2 * output.numel()
        elif isinstance(module, nn.ReLU):
            total += output.numel()
        elif isinstance(module, nn.MaxPool2d):
            total += inputs[0].numel()

    for module in probe.modules():
        module.register_forward_hook(add)
    with torch.no_grad(), FakeTensorMode(allow_non_fake_inputs=True) as mode:
        probe(mode.from_tensor(image))
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    return total / 1e9, trained / 1e6


@pytest.mark.slow(reason="whole detectors at the size of COCO")
@pytest.mark.parametrize("entry", [e for e in paper.COCO if e.config], ids=lambda e: e.name)
def test_the_papers_flops_and_parameters_are_mmdetection_1s(entry):
    flops, trained = count_as_mmdetection_1(entry.config)
    assert flops == pytest.approx(entry.flops, rel=1e-3)
    assert round(trained, 1) == entry.params  # without what is frozen
