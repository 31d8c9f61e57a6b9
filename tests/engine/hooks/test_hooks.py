import math
import uuid
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODEL_WRAPPERS, MODELS
from mmengine.runner import Runner
from mmengine.structures import BaseDataElement
from torch import nn

from mmhcgnet import HCGNet
from mmhcgnet.errors import UsageError
from mmhcgnet.models import DropBlock


@MODEL_WRAPPERS.register_module()
class Wrapper(nn.Module):
    """What wraps a model in MMEngine's eyes."""

    def __init__(self, module):
        super().__init__()
        self.module = module


ARCH = dict(depths=(1, 1), growth_rates=(8, 8))


class Model(BaseModel):
    """A backbone whose maps are the predictions."""

    def __init__(self):
        super().__init__()
        self.backbone = HCGNet(ARCH, out_indices=(0, 1))

    def forward(self, inputs, mode="tensor"):
        return self.backbone(inputs)


@pytest.fixture
def runner():
    """All that the hook asks of a Runner."""
    return SimpleNamespace(model=Model().eval())


@pytest.mark.parametrize("point", ["before_train", "before_val", "before_test"])
def test_channels_last_changes_the_memory_and_not_the_numbers(runner, point):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 48)
    seen = []
    backbone = runner.model.backbone
    backbone.stages[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    before = backbone(images)
    assert not seen[0].is_contiguous(memory_format=torch.channels_last)

    hook = HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook"))
    getattr(hook, point)(runner)
    getattr(hook, point)(runner)  # validation inside a training calls twice
    after = backbone(images)
    assert seen[1].is_contiguous(memory_format=torch.channels_last)
    assert len(backbone._forward_hooks) == 1
    for old, new in zip(before, after, strict=True):
        assert new.is_contiguous()
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-5)


def test_channels_last_leaves_the_weights_of_a_wrapped_model_as_they_are():
    """DDP lays out its buckets by the weights' strides, before the hook runs."""
    model = Model().eval()
    strides = {name: p.stride() for name, p in model.named_parameters()}
    HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook")).before_train(
        SimpleNamespace(model=Wrapper(model))
    )
    assert {name: p.stride() for name, p in model.named_parameters()} == strides
    seen = []
    model.backbone.stages[0].register_forward_hook(lambda module, inputs, out: seen.append(out))
    maps = model.backbone(torch.randn(2, 3, 64, 48))
    assert seen[0].is_contiguous(memory_format=torch.channels_last)
    assert all(x.is_contiguous() for x in maps)


def is_channels_last(backbone):
    weight = backbone.stages[0][0].squeeze2.conv.weight  # 3 × 3 and not depthwise
    return weight.is_contiguous(memory_format=torch.channels_last) and not weight.is_contiguous()


def test_channels_last_gives_the_gradients_of_the_default_format():
    images = torch.randn(3, 3, 16, 16, dtype=torch.float64)
    arch = dict(depths=(2, 2), growth_rates=(12, 20), stem="cifar")
    gradients = []
    for channels_last in (False, True):
        torch.manual_seed(0)
        model = MODELS.build(
            dict(
                type="mmpretrain.ImageClassifier",
                backbone=dict(type="mmhcgnet.HCGNet", arch=arch),
                neck=dict(type="GlobalAveragePooling"),
                head=dict(type="LinearClsHead", num_classes=3, in_channels=64),
            )
        ).double()
        if channels_last:
            hook = HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook", cpu_only=True))
            hook.before_train(SimpleNamespace(model=model))
            assert is_channels_last(model.backbone)
        score = model.head.fc(model.extract_feat(images)[-1])
        score.square().sum().backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    plain, turned = gradients
    assert any(gradient.abs().max() > 1e-3 for gradient in plain.values())
    for name, gradient in plain.items():
        torch.testing.assert_close(turned[name], gradient, rtol=1e-9, atol=1e-9, msg=name)


def test_channels_last_leaves_other_devices_alone_if_asked_to():
    model = Model().to("meta")
    HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook", cpu_only=True)).before_train(
        SimpleNamespace(model=model)
    )
    assert not model.backbone._forward_hooks
    HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook")).before_train(SimpleNamespace(model=model))
    assert model.backbone._forward_hooks


@pytest.mark.parametrize("names", [("module",), ("student", "teacher"), ("a", "b", "c")])
def test_channels_last_finds_the_backbones_of_whatever_wraps_models(names):
    # As test-time augmentation does, and semi-supervised training.
    wrapper = nn.ModuleDict({name: Model() for name in names})
    HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook")).before_test(SimpleNamespace(model=wrapper))
    for model in wrapper.values():
        assert len(model.backbone._forward_hooks) == 1
        assert is_channels_last(model.backbone)


@pytest.mark.parametrize("model", [nn.Linear(2, 2), nn.Sequential(nn.ReLU())])
def test_channels_last_says_that_a_model_has_no_backbone(model):
    told = []
    runner = SimpleNamespace(model=model, logger=SimpleNamespace(warning=told.append))
    HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook")).before_test(runner)
    assert "has no backbone" in told[0]


def test_roi_align_gets_maps_that_it_reads_rightly(runner):
    pytest.importorskip("mmdet")
    # Converted to channels last and not handed on as the hook does, the second call would differ.
    extractor = MODELS.build(
        Config(
            dict(
                type="mmdet.SingleRoIExtractor",
                roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
                out_channels=runner.model.backbone.out_channels[0],
                featmap_strides=[4],
            )
        )
    )
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0.0, 4, 4, 40, 44], [1, 8, 0, 30, 60]])
    before = extractor(runner.model.backbone(images)[:1], rois)
    HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook")).before_test(runner)
    after = extractor(runner.model.backbone(images)[:1], rois)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)


def test_channels_last_suits_classifiers():
    classifier = MODELS.build(
        Config(
            dict(
                type="mmpretrain.ImageClassifier",
                backbone=dict(type="mmhcgnet.HCGNet", arch=ARCH),
                neck=dict(type="mmpretrain.GlobalAveragePooling"),
                head=dict(type="mmpretrain.LinearClsHead", num_classes=3, in_channels=44),
            )
        )
    )
    images = torch.randn(4, 3, 64, 48)
    before = classifier(images)
    HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook")).before_train(
        SimpleNamespace(model=classifier)
    )
    torch.testing.assert_close(classifier(images), before, rtol=1e-4, atol=1e-5)


# The deployed form


def randomise(model):
    """Make nothing neutral: gates, running statistics, scales."""
    for name, tensor in model.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif tensor.is_floating_point():
            tensor.copy_(torch.randn_like(tensor) * (0.3 if tensor.dim() > 1 else 1))


def make_runner(work_dir, model, *hooks):
    return Runner(
        model=model,
        work_dir=str(work_dir),
        test_dataloader=dict(
            batch_size=2,
            num_workers=0,
            dataset=[dict(inputs=torch.randn(3, 64, 48).double()) for _ in range(2)],
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        test_cfg=dict(),
        test_evaluator=[],
        custom_hooks=[dict(type=f"mmhcgnet.{hook}") for hook in hooks],
        log_level="ERROR",
    )


class Predicting(Model):
    """Keeps what it predicts."""

    def forward(self, inputs, mode="tensor"):
        self.maps = super().forward(torch.stack(inputs))
        return [BaseDataElement()]


@pytest.mark.parametrize("hooks", [(), ("ChannelsLastHook",)], ids=["alone", "channels-last"])
def test_a_deployed_model_predicts_the_same(tmp_path, hooks):
    model = Predicting().double()
    randomise(model)
    runner = make_runner(tmp_path, model, *hooks, "DeployHook")
    (batch,) = runner.test_dataloader
    expected = model.eval().backbone(torch.stack(batch["inputs"]))
    model.train()
    runner.test()
    assert model.backbone.deployed
    for new, old in zip(model.maps, expected, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-8, atol=1e-8)
    if hooks:
        check_channels_last(model.backbone)


def check_channels_last(network):
    weights = [p for p in network.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    assert len(weights) > 3
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)


class Replacing(nn.Module):
    """A network whose deployed form has weights of its own, in the usual memory format."""

    def switch_to_deploy(self):
        self.layers = nn.Sequential(*(nn.Conv2d(3, 3, 3).double() for _ in range(4)))

    def forward(self, x):
        return (self.layers(x),)


def test_weights_made_by_deploying_are_converted_to_channels_last(tmp_path):
    """Listed behind ChannelsLastHook, DeployHook runs before it."""
    model = Predicting()
    model.backbone = Replacing()
    make_runner(tmp_path, model, "ChannelsLastHook", "DeployHook").test()
    check_channels_last(model.backbone)


def before_test(model, hooks=()):
    runner = SimpleNamespace(model=model, hooks=hooks)
    HOOKS.build(dict(type="mmhcgnet.DeployHook")).before_test(runner)


@pytest.mark.parametrize("wrap", [Wrapper, lambda m: Wrapper(Wrapper(m))], ids=["ddp", "ddp-tta"])
def test_what_wraps_a_model_is_no_obstacle(wrap):
    model = Model().train()
    before_test(wrap(model))
    assert model.backbone.deployed and not model.training
    before_test(wrap(model))  # again: it stays as it is
    assert model.backbone.deployed


def test_other_networks_are_deployed_by_mmpretrains_convention():
    classifier = MODELS.build(
        Config(
            dict(
                type="mmpretrain.ImageClassifier",
                backbone=dict(type="mmpretrain.RepVGG", arch="A0", out_indices=(3,)),
                neck=dict(type="mmpretrain.GlobalAveragePooling"),
                head=dict(type="mmpretrain.LinearClsHead", num_classes=3, in_channels=1280),
            )
        )
    )
    images = torch.randn(2, 3, 32, 32)
    expected = classifier.eval()(images)
    count = len(list(classifier.parameters()))
    before_test(classifier)
    assert len(list(classifier.parameters())) < count / 2
    torch.testing.assert_close(classifier(images), expected, rtol=1e-4, atol=1e-5)


def test_a_model_without_a_deployed_form_is_told():
    with pytest.raises(UsageError, match="No part of the model, Dropping, has a deployed form"):
        before_test(Dropping())


def test_a_network_that_cannot_be_deployed_is_told():
    model = Model()
    model.backbone = HCGNet(ARCH, norm_cfg=dict(type="GN", num_groups=1))
    with pytest.raises(UsageError, match="GroupNorm: use it as it is"):
        before_test(model)


def test_averaged_weights_are_not_exchanged_with_deployed_ones():
    model = Model()
    with pytest.raises(UsageError, match="EMAHook .*: remove it from custom_hooks"):
        before_test(model, [EMAHook()])
    assert not model.backbone.deployed


class Dropping(BaseModel):
    """A model with DropBlock and nothing else to speak of."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.layers = nn.Sequential(DropBlock(2), nn.ReLU(), DropBlock(3))

    def forward(self, inputs, mode="tensor"):
        return dict(loss=self.weight.square())


class Stop(Exception):
    """What ends a run before its time."""


class StrengthRecorder(Hook):
    """The strengths of both DropBlocks in every iteration, until an iteration that is not run."""

    def __init__(self, stop_at):
        self.stop_at = stop_at
        self.strengths = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == self.stop_at:
            raise Stop
        first, second = (runner.model.layers[i].strength for i in (0, 2))
        assert first == second
        self.strengths.append(first)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        meta = dict(epoch=runner.epoch, iter=runner.iter + 1)
        runner.save_checkpoint(runner.work_dir, f"iter_{runner.iter + 1}.pth", meta=meta)


BATCHES = 3  # in an epoch
EPOCHS = dict(type="mmhcgnet.ResumableEpochLoop", max_epochs=6)
ITERS = dict(type="mmhcgnet.ResumableIterLoop", max_iters=18)


def rise(*periods):
    """The strengths in cosine cycles of these lengths."""
    places = [t / period for period in periods for t in range(period)]
    return [(1 - math.cos(math.pi * place)) / 2 for place in places]


def train(work_dir, schedule, loop=EPOCHS, stop_at=None, resume=None):
    """Return the strength in every iteration of a run, stopped before ``stop_at``."""
    recorder = StrengthRecorder(stop_at)
    runner = Runner(
        model=Dropping(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            batch_size=1,
            num_workers=0,
            dataset=[dict(inputs=torch.zeros(1))] * BATCHES,
            sampler=dict(
                type="DefaultSampler" if loop is EPOCHS else "InfiniteSampler", shuffle=False
            ),
        ),
        train_cfg=dict(loop),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.3)),
        param_scheduler=schedule,
        default_hooks=dict(checkpoint=None),
        custom_hooks=[dict(type="mmhcgnet.DropBlockHook"), recorder],
        resume=resume is not None,
        load_from=resume,
        # Two runs of one second would share a name and so what they write to.
        experiment_name=uuid.uuid4().hex,
        log_level="ERROR",
    )
    with pytest.raises(Stop) if stop_at else nullcontext():
        runner.train()
    return recorder.strengths


COSINE = dict(type="CosineAnnealingLR", T_max=6, by_epoch=True, convert_to_iter_based=True)
SCHEDULES = {
    # As in the released program, which sets rate and probability once an epoch.
    "sgdr": (
        dict(type="CosineRestartLR", periods=[2, 4], restart_weights=[1, 1], eta_min=0),
        EPOCHS,
        [strength for strength in rise(2, 4) for _ in range(BATCHES)],
    ),
    "cosine-within-epochs": (COSINE, EPOCHS, rise(18)),
    "iterations": (
        dict(type="CosineAnnealingLR", T_max=18, by_epoch=False),
        ITERS,
        rise(18),
    ),
    "sgdr-of-iterations": (
        dict(
            type="CosineRestartLR", periods=[6, 12], restart_weights=[1, 0.5], by_epoch=False,
            eta_min_ratio=0.1,
        ),
        ITERS,
        rise(6, 12),
    ),
    "warm-up": (
        [dict(type="LinearLR", start_factor=0.01, by_epoch=False, begin=0, end=5), COSINE],
        EPOCHS,
        [0.0] * 5 + rise(18)[5:],
    ),
    "warm-up-before": (
        [
            dict(type="ConstantLR", factor=0.1, by_epoch=True, begin=0, end=1),
            dict(type="CosineAnnealingLR", T_max=5, begin=1, end=6, by_epoch=True),
        ],
        EPOCHS,
        [0.0] * 3 + [strength for strength in rise(5) for _ in range(BATCHES)],
    ),
    "no-cosine": (dict(type="MultiStepLR", milestones=[2], by_epoch=True), EPOCHS, rise(18)),
    "no-schedule": (None, ITERS, rise(18)),
}  # fmt: skip


@pytest.mark.parametrize("name", SCHEDULES)
def test_dropblock_follows_the_place_in_the_cycle_also_in_a_resumed_run(name, tmp_path):
    schedule, loop, expected = SCHEDULES[name]
    whole = train(tmp_path / "whole", schedule, loop)
    assert whole == pytest.approx(expected, abs=1e-12)
    # Within an epoch and a cycle.
    stop = 10
    assert train(tmp_path / "halves", schedule, loop, stop_at=stop) == whole[:stop]
    path = str(tmp_path / f"halves/iter_{stop}.pth")
    assert train(tmp_path / "halves", schedule, loop, resume=path) == whole[stop:]


def test_dropblocks_probability_is_the_released_programs(tmp_path):
    schedule, loop, _ = SCHEDULES["sgdr"]
    strengths = train(tmp_path, schedule, loop)[::BATCHES]
    places = [(t, period) for period in (2, 4) for t in range(period)]
    released = [abs(0.05 * (1 + math.cos(math.pi * t / period)) - 0.1) for t, period in places]
    assert [0.1 * strength for strength in strengths] == pytest.approx(released)


def test_dropblock_is_found_behind_a_wrapper():
    model = Dropping()
    runner = SimpleNamespace(
        model=nn.DataParallel(model), param_schedulers=[], iter=1, epoch=0, max_iters=2
    )
    hook = HOOKS.build(dict(type="mmhcgnet.DropBlockHook"))
    hook.before_train(runner)
    hook.before_train_iter(runner, 1)
    assert [model.layers[i].strength for i in (0, 2)] == pytest.approx([0.5, 0.5])


def test_dropblock_hook_without_dropblock_says_what_to_add(runner):
    with pytest.raises(UsageError, match=r"dropblock=dict\(block_size=2\)"):
        HOOKS.build(dict(type="mmhcgnet.DropBlockHook")).before_train(runner)
