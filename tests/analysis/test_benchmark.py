"""What is counted and in which order, on modules of which both are known; seconds are not."""

import json
import math
import sys

import pytest
import torch
from mmengine.config import Config
from torch import nn
from torch.utils.checkpoint import checkpoint

from mmhcgnet import HCGNet
from mmhcgnet.analysis import report
from mmhcgnet.analysis.benchmark import measuring as benchmark
from mmhcgnet.analysis.benchmark import workloads
from mmhcgnet.analysis.benchmark.measuring import (
    CallCounter,
    Result,
    count_calls,
    count_kept_bytes,
)
from mmhcgnet.analysis.benchmark.workloads import Workload, build
from mmhcgnet.analysis.complexity import counting as complexity
from mmhcgnet.engine.configs import shipped_config
from mmhcgnet.engine.models import build_model
from mmhcgnet.errors import UsageError

SMALL = "mmhcgnet.HCGNet:arch.depths=(1,1):arch.growth_rates=(8,8):arch.stem=cifar"
DETECTOR = shipped_config("mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes")


def workload(model, task="train", batch_size=2, size=(8, 12), **kwargs):
    return Workload("model", model, task, batch_size, size, **kwargs)


# --- operator calls ------------------------------------------------------------------------------


def test_views_allocations_and_questions_are_no_calls():
    x, other = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    with CallCounter() as counter:
        x.view(6, 4).t()[1:].unsqueeze(0).detach()
        x.transpose(1, 2).flatten(2).chunk(2, dim=1)
        torch.empty(3), torch.zeros(3), torch.empty_like(x), torch.zeros_like(x), x.new_zeros(2)
        torch.ones_like(x)
        torch.result_type(x, other)
    assert not counter.calls
    with CallCounter() as counter:
        x.add_(other)  # in place, and no view although it returns its input
        x.transpose(1, 2).reshape(-1)  # copies
        torch._foreach_add_([x, other], 1.0)  # one call for many, which returns nothing
        torch.relu(x @ other.transpose(1, 2))
    expected = dict(add_=1, clone=1, _foreach_add_=1, bmm=1, relu=1)
    assert counter.calls == {f"aten::{name}": n for name, n in expected.items()}


class Branches(nn.Module):
    """A convolution and the ReLU of its output, added up."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x):
        x = self.conv(x)
        return x + x.relu()


def test_the_calls_of_a_forward_pass_and_of_a_step():
    forward = count_calls(workload(Branches(), "forward"))
    assert forward == {"aten::convolution": 1, "aten::relu": 1, "aten::add": 1}
    step = workload(Branches())
    expected = forward | {
        "aten::mean": 1,  # the loss
        "aten::div": 1,  # its gradient
        "aten::threshold_backward": 1,
        "aten::convolution_backward": 1,
    }
    expected["aten::add"] += 1  # of the two gradients
    assert count_calls(step) == expected
    # Nor are there more once there are gradients, to which others could be added.
    assert count_calls(step) == expected


# --- bytes that are kept -------------------------------------------------------------------------


class Chain(nn.Module):
    """Of 2 images with 3 channels: a convolution to 4 channels, a sigmoid, a square."""

    def __init__(self, recompute=False):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)
        self.recompute = recompute

    def forward(self, x):
        x = self.conv(x)
        if self.recompute:
            return checkpoint(self._rest, x, use_reentrant=False)
        return self._rest(x)

    @staticmethod
    def _rest(x):
        x = x.sigmoid()
        return x * x.view_as(x)


def test_each_storage_counts_once_and_parameters_do_not():
    # The images for the weights' gradient, and the output of the sigmoid for itself and the square.
    assert count_kept_bytes(workload(Chain())) == 4 * (2 * 8 * 12) * (3 + 4)


def test_what_a_checkpoint_keeps_is_seen():
    # The images, and the convolution's output in place of the sigmoid's.
    assert count_kept_bytes(workload(Chain(recompute=True))) == 4 * (2 * 8 * 12) * (3 + 4)
    wide = nn.Sequential(nn.Conv2d(3, 4, 1), Exponentials())
    # All outputs but the last one's are gone: 4 channels and not 4 * 3.
    assert count_kept_bytes(workload(wide)) == 4 * (2 * 8 * 12) * (3 + 4 * 3)
    wide[1].recompute = True
    assert count_kept_bytes(workload(wide)) == 4 * (2 * 8 * 12) * (3 + 4)


class Exponentials(nn.Module):
    recompute = False

    def forward(self, x):
        function = nn.Sequential(nn.Tanh(), nn.Sigmoid(), nn.Tanh())
        return checkpoint(function, x, use_reentrant=False) if self.recompute else function(x)


# --- rounds --------------------------------------------------------------------------------------


def test_each_round_begins_with_the_next_model():
    ran, reported = [], []
    runs = {name: lambda name=name: ran.append(name) for name in "abc"}
    times = benchmark.interleave(runs, 4, report=lambda i, measured: reported.append((i, measured)))
    assert "".join(ran) == "aabbcc" + "bbccaa" + "ccaabb" + "aabbcc"
    assert {name: len(measured) for name, measured in times.items()} == dict(a=4, b=4, c=4)
    assert [i for i, _ in reported] == [1, 2, 3, 4]
    assert reported[-1][1] == {name: measured[-1] for name, measured in times.items()}


def test_the_run_behind_another_model_does_not_count(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(benchmark, "timer", lambda: now[0])
    last = [""]

    def run(name: str) -> None:
        now[0] += 1 if last[0] == name else 5
        last[0] = name

    times = benchmark.interleave({name: lambda name=name: run(name) for name in "ab"}, 3)
    assert times == dict(a=[1, 1, 1], b=[1, 1, 1])


def test_time_ends_the_rounds_but_for_the_first_three():
    runs = dict(a=lambda: None)
    assert len(benchmark.interleave(runs, 9, seconds=0)["a"]) == 3
    assert len(benchmark.interleave(runs, 2, seconds=0)["a"]) == 2
    assert len(benchmark.interleave(runs, 9, seconds=math.inf)["a"]) == 9


def test_ratios_are_taken_within_a_round():
    # The machine was slow in the second round: 2 in each round, whatever the medians say.
    assert benchmark.time_ratio([2, 8, 2.2], [1, 4, 1.1]) == pytest.approx(2)
    result = Result("m", "forward", 4, (8, 8), times=[0.4, 0.2, 0.8], ratio=1.0)
    assert result.quartiles == pytest.approx((75, 100, 150))
    assert result.images_per_second == pytest.approx(10)
    assert benchmark.as_row(result)[:4] == ["m", "100.0", "75.0 to 150.0", "10.0"]
    assert json.loads(json.dumps(result.as_dict()))["ms_per_image"] == pytest.approx(100)


def test_models_side_by_side():
    lines = []
    names = [f"{SMALL}:plain", SMALL, f"{SMALL}:with_cp"]
    plain, default, with_cp = benchmark.measure(names, "train", 2, (16, 24), 2, say=lines.append)
    assert [result.model for result in (plain, default, with_cp)] == names
    assert plain.ratio == 1 and {len(r.times) for r in (plain, default, with_cp)} == {2}
    assert plain.kept > default.kept > with_cp.kept > 0
    assert plain.calls < with_cp.calls
    assert sum("round" in line for line in lines) == 2
    # Per image: twice as many images keep as much for each, up to batch statistics.
    (more,) = benchmark.measure([SMALL], "train", 4, (16, 24), 1, say=lines.append)
    assert more.kept == pytest.approx(default.kept, rel=0.1)
    assert more.calls == default.calls


@pytest.mark.slow(reason="a process that imports everything")
@pytest.mark.skipif(sys.platform != "linux", reason="the peak comes from Linux's /proc")
def test_peak_memory_of_a_new_process():
    settings = dict(task="train", batch_size=2, size=(256, 256), device="cpu", channels_last=True)
    kept = count_kept_bytes(Workload(SMALL, build(SMALL), **settings))
    assert kept < benchmark.peak_bytes_on_cpu(SMALL, 1, **settings) < 10 * kept


@pytest.mark.gpu
def test_on_a_gpu():
    (small,) = benchmark.measure(
        [SMALL], "train", 2, (64, 64), 3, device="cuda", peak=True, say=lambda line: None
    )
    (cpu,) = benchmark.measure([SMALL], "train", 2, (64, 64), 1, say=lambda line: None)
    assert small.kept == pytest.approx(cpu.kept, rel=0.1)
    assert small.peak > small.kept


# --- models and what they do ---------------------------------------------------------------------


def test_models_by_name():
    network = build("hcgnet-a1:out_indices=(0,2)")
    assert network.arch == HCGNet("A1").arch and network.out_indices == (0, 2)
    assert not build(SMALL).plain and build(f"{SMALL}:plain").plain
    assert build(f"{SMALL}:with_cp").with_cp
    assert build(f"{SMALL}:deploy").deployed
    assert build("torchvision:resnet18:num_classes=7").fc.out_features == 7
    assert len(build("mmpretrain.ResNet:depth=18").layer1) == 2
    name = "hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar10"
    config = shipped_config(name)
    assert build(f"{name}:with_cp").backbone.with_cp
    assert build(f"{config}:backbone:deploy").deployed
    assert build(f"{config}:model.head.num_classes=3").head.fc.out_features == 3
    assert build("mmpretrain::resnet/resnet18_8xb32_in1k.py:backbone").depth == 18


def test_nchw_is_the_default_memory_format():
    found = []
    for name in (SMALL, f"{SMALL}:nchw"):
        network = build(name)
        Workload(name, network, "train", 2, (8, 12))
        weights = [p for p in network.parameters() if p.dim() == 4]
        found.append(all(p.is_contiguous() for p in weights))
    assert found == [False, True]


@pytest.mark.parametrize(
    "name, sentence",
    [
        ("resnet50", "There is no model 'resnet50': give hcgnet-b, torchvision:resnet50"),
        ("hcgnet-d", "There is no hcgnet-d: choose one of hcgnet-a1"),
        ("hcgnet-b:compile:openvino", "one engine or compiler"),
        ("hcgnet-b:deplyo", r"unknown word 'deplyo' \(did you mean deploy\?\)"),
        ("torchvision:resnet5", r"no classifier 'resnet5' \(did you mean resnet50"),
        ("torchvision:maskrcnn_resnet50_fpn", "no classifier"),
        ("torchvision:resnet18:deploy", "No part of the model, ResNet, has a deployed form"),
        ("torchvision:resnet18:plain", "only HCGNet has a plain form"),
        ("torchvision:resnet18:with_cp", "cannot be built: .*'with_cp'"),
        ("hcgnet-b:backbone", "only a config has a backbone"),
        ("hcgnet-b:frozen_stages=9", "cannot be built: .*frozen_stages must be"),
        ("mmpretrain.ResNet:depth=51", "invalid depth 51"),
        ("mmpretrain.ResNt", "did you mean mmpretrain.ResNet"),
        ("nothing.py", "The config nothing.py does not exist"),
        pytest.param(f"{DETECTOR}:compile", "add :backbone", id="detector:compile"),
    ],
)
def test_mistakes_in_a_name_get_one_sentence(name, sentence):
    with pytest.raises(UsageError, match=sentence):
        build(name)


def test_what_cannot_be_measured_is_said(monkeypatch):
    settings = dict(size=(16, 16), rounds=1)
    with pytest.raises(UsageError, match="deploy has nothing to train"):
        benchmark.measure([f"{SMALL}:deploy"], "train", 2, say=print, **settings)
    with pytest.raises(UsageError, match="given twice"):
        benchmark.measure([SMALL, SMALL], "forward", 2, **settings)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UsageError, match="no CUDA device: use the device cpu"):
        benchmark.measure([SMALL], "forward", 2, device="cuda", **settings)
    with pytest.raises(UsageError, match="A shape is a height and a width"):
        complexity.read_size([8, 0])
    with pytest.raises(UsageError, match="A shape is a height and a width"):
        complexity.read_size([8, 8, 8])


@pytest.mark.parametrize("channels_last", [True, False])
def test_the_memory_format_is_that_of_images_and_weights(channels_last):
    seen = []
    model = nn.Sequential(nn.Conv2d(5, 4, 3))
    model[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    workload(model, "forward", channels_last=channels_last)()
    (images,) = seen
    assert images.shape == (2, 5, 8, 12)  # as many channels as the first convolution has
    for tensor in (images, model[0].weight):
        assert tensor.is_contiguous(memory_format=torch.channels_last) == channels_last


def test_a_deployed_network_runs_without_gradients():
    deployed = build(f"{SMALL}:deploy")
    calls = count_calls(workload(deployed, "forward")).total()
    assert calls < count_calls(workload(build(SMALL), "forward")).total()
    assert not deployed.training


@pytest.fixture(scope="module")
def detector():
    cfg = Config.fromfile(DETECTOR)
    cfg.model.backbone.arch = dict(depths=(1, 1, 1, 1), growth_rates=(8, 8, 8, 8))
    cfg.model.neck.in_channels = [72, 44, 30, 23]
    return build_model(cfg)


def test_a_detectors_second_stage_has_the_same_work_whatever_the_weights(detector):
    masks, boxes = [], []
    head = detector.roi_head
    handles = [
        head.mask_head.convs[0].register_forward_hook(lambda m, i, o: masks.append(len(o))),
        head.bbox_head.fc_cls.register_forward_hook(lambda m, i, o: boxes.append(len(o))),
    ]
    number = complexity.number_of_proposals(detector)
    sampler = detector.train_cfg.rcnn.sampler
    for task in ("forward", "train"):
        run = workload(detector, task, size=(64, 90))
        for seed in (1, 2):
            torch.manual_seed(seed)
            for parameter in detector.parameters():
                parameter.data.normal_(std=0.02)
            run()
    for handle in handles:
        handle.remove()
    positives = int(sampler.num * sampler.pos_fraction)
    assert boxes == 2 * [2 * number] + 2 * [2 * sampler.num]
    assert masks == 2 * [100] + 2 * [2 * positives]  # MMDetection's forward takes 100 of a batch
    assert all(p.grad is not None for p in detector.parameters())


def test_proposals_lie_in_the_image_and_some_near_the_objects():
    objects = torch.tensor([[10.0, 10, 60, 40], [50, 20, 90, 60]])
    boxes = workloads._proposals(objects, 100, (64, 96))
    assert boxes.shape == (100, 4)
    assert torch.equal(boxes, workloads._proposals(objects, 100, (64, 96)))
    assert (boxes >= 0).all() and (boxes[:, ::2] <= 96).all() and (boxes[:, 1::2] <= 64).all()
    assert (boxes[:, 2:] > boxes[:, :2]).all()
    from mmdet.structures.bbox import bbox_overlaps

    assert (bbox_overlaps(boxes[:25], objects).amax(1) > 0.5).all()


def test_maps_that_roialign_reads_are_laid_out_as_it_reads_them(detector):
    seen = []
    handle = detector.neck.register_forward_pre_hook(lambda m, inputs: seen.extend(inputs[0]))
    workload(detector, "forward", 1, (64, 64))()
    handle.remove()
    assert seen and all(x.is_contiguous() for x in seen)
    weight = detector.backbone.stem[0].conv.weight
    assert weight.is_contiguous(memory_format=torch.channels_last)


# --- pictures ------------------------------------------------------------------------------------


def test_a_picture_has_a_panel_for_each_comparison():
    pytest.importorskip("matplotlib")
    results = [
        Result(name, task, 2, (8, 8), [0.1, 0.2], 1.0, kept=1e6 if task == "train" else None)
        for task in ("forward", "train")
        for name in ("hcgnet-b", "some/where/resnet.py")
    ]
    axes = benchmark.figure(results).axes
    assert [ax.get_title() for ax in axes] == ["forward, 2 × 8 × 8"] + 2 * ["train, 2 × 8 × 8"]
    for ax in axes:
        assert [label.get_text() for label in ax.get_yticklabels()] == ["hcgnet-b", "resnet.py"]
        assert len({bar.get_facecolor() for bar in ax.patches}) == 2  # ours and the others
    assert [bar.get_width() for bar in axes[0].patches] == pytest.approx([75, 75])
    assert [bar.get_width() for bar in axes[2].patches] == pytest.approx([1, 1])


def test_a_table_has_a_dash_for_what_there_is_not():
    result = Result("m", "forward", 1, (8, 8), [0.1], 1.0)
    assert benchmark.as_row(result)[-3:] == ["–", "–", "–"]
    text = report.table(benchmark.HEADER, [benchmark.as_row(result)])
    assert len(text.splitlines()) == 3


# --- engines -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_runs_a_network(engine):
    for package in ("onnx", engine):
        pytest.importorskip(package, reason=f"{package} is not installed")
    (result,) = benchmark.measure(
        [f"{SMALL}:{engine}"], "forward", 2, (32, 48), rounds=1, say=lambda line: None
    )
    assert result.calls is None and result.ratio == 1
    images = Workload("model", build(f"{SMALL}:{engine}"), "forward", 2, (32, 48)).compute()
    assert [value.shape for value in images.values()] == [(2, 20, 16, 24)]


def test_an_engine_runs_a_whole_detector():
    for package in ("onnx", "onnxruntime"):
        pytest.importorskip(package, reason=f"{package} is not installed")
    arch = dict(depths=[1] * 4, growth_rates=[8] * 4)
    cfg = Config.fromfile(DETECTOR)
    cfg.model.backbone.arch = arch
    cfg.model.neck.in_channels = [72, 44, 30, 23]
    detector = workloads.InEngine(build_model(cfg), "onnxruntime")
    outputs = workload(detector, "forward", 2, (64, 90)).compute()
    assert outputs["masks"].shape == (2, 100, 28, 28)
    assert (outputs["labels"] >= 0).all()  # as many as MMDetection's own workload has
    with pytest.raises(UsageError, match="forward passes"):
        workload(detector, "train")
