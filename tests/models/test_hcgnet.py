"""What HCGNet promises: sizes, shapes, state dict, freezing, norms, precision, errors."""

import math
import runpy
from fractions import Fraction
from pathlib import Path

import pytest
import torch
from helpers.reference import (
    ARCHS,
    NETWORKS,
    TINY,
    Reference,
    make_arch,
    random_state,
    state_shapes,
)
from mmcv.cnn import build_activation_layer
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from mmpretrain.engine.optimizers import LearningRateDecayOptimWrapperConstructor
from mmpretrain.models import ImageClassifier
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmhcgnet.models import HCGNet
from mmhcgnet.models.architecture import scaled
from mmhcgnet.models.gates import attention_pool

# Table 1: exact parameters by class count, multiply-adds of convs and FCs in units of 1e9.
PARAMETERS = {
    "A1": {10: 1_065_301, 100: 1_102_651},
    "A2": {10: 3_069_149, 100: 3_133_679},
    "A3": {10: 11_239_897, 100: 11_363_647},
    "B": {1000: 12_845_501},
    "C": {1000: 42_153_208},
}
MULTIPLY_ADDS = {"A1": 0.1542, "A2": 0.4886, "A3": 1.9563, "B": 2.0028, "C": 6.9716}
STAGE_CHANNELS = {
    "A1": (120, 252, 414),
    "A2": (240, 408, 716),
    "A3": (504, 828, 1374),
    "B": (160, 368, 952, 1244),
    "C": (352, 848, 1720, 2428),
}
STRIDES = {"cifar": (1, 2, 4), "imagenet": (4, 8, 16, 32)}
ARCH = make_arch(TINY)


def norm_names(shapes: dict) -> list[str]:
    suffix = ".running_mean"
    return [key.removesuffix(suffix) for key in shapes if key.endswith(suffix)]


def is_part_of(name: str, prefixes: list[str]) -> bool:
    return any(name.startswith(prefix) for prefix in prefixes)


def tiny(**kwargs) -> HCGNet:
    """The small ImageNet network, all stages, with weights and statistics that are not neutral."""
    network = HCGNet(**(dict(arch=ARCH, out_indices=(0, 1, 2, 3)) | kwargs))
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(random_state(shapes))
    return network


# Sizes


@pytest.mark.parametrize(
    ("name", "classes"), [(name, classes) for name in PARAMETERS for classes in PARAMETERS[name]]
)
def test_parameter_count(name, classes):
    with torch.device("meta"):
        network = HCGNet(arch=name)
        classifier = nn.Linear(network.out_channels[0], classes)
    count = sum(p.numel() for p in (*network.parameters(), *classifier.parameters()))
    assert count == PARAMETERS[name][classes]


@pytest.mark.parametrize("name", MULTIPLY_ADDS)
def test_multiply_adds(name):
    cifar = ARCHS[name][2] == "cifar"
    size, classes = (32, 10) if cifar else (224, 1000)
    total = 0

    def count(module, inputs, output):
        nonlocal total
        total += output.numel() * math.prod(module.weight.shape[1:])

    network = HCGNet(arch=name).eval()
    classifier = nn.Linear(network.out_channels[0], classes)
    for module in (*network.modules(), classifier):
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(count)
    with torch.no_grad():
        classifier(network(torch.randn(1, 3, size, size))[0].mean((2, 3)))
    assert total / 1e9 == pytest.approx(MULTIPLY_ADDS[name], rel=1e-3)


@pytest.mark.parametrize("out_indices", [-1, 0, 1, -3, (0, 1, 2), (0, -1), [2, 0], (-2,)])
@pytest.mark.parametrize("name", ARCHS)
def test_output_shapes(name, out_indices):
    depths, _, stem = ARCHS[name]
    given = list(out_indices) if isinstance(out_indices, list) else out_indices
    network = HCGNet(arch=name.lower(), out_indices=given).eval()
    if isinstance(given, list):
        assert given == out_indices  # the caller's list is the caller's
    indices = (out_indices,) if isinstance(out_indices, int) else out_indices
    indices = tuple(i if i >= 0 else len(depths) + i for i in indices)
    channels = tuple(STAGE_CHANNELS[name][i] for i in indices)
    strides = tuple(STRIDES[stem][i] for i in indices)
    assert network.out_indices == indices
    assert network.out_channels == channels
    assert network.out_strides == strides
    for height, width in ((32, 32), (33, 47), (61, 32)):
        with torch.no_grad():
            maps = network(torch.randn(1, 3, height, width))
        assert isinstance(maps, tuple)
        assert [tuple(out.shape) for out in maps] == [
            (1, channel, math.ceil(height / stride), math.ceil(width / stride))
            for channel, stride in zip(channels, strides, strict=True)
        ]


@pytest.mark.parametrize("ratio", ["2.3", "0.5", "0.29", "1.1", "4", "0.07"])
def test_a_width_is_the_floor_of_the_product_as_it_is_written(ratio):
    for channels in range(1, 1300):
        assert scaled(channels, float(ratio)) == math.floor(Fraction(ratio) * channels)


def test_default_is_the_last_stage_of_b():
    with torch.device("meta"):
        network = HCGNet()
    assert (network.out_indices, network.out_channels, network.out_strides) == (
        (3,),
        (1244,),
        (32,),
    )


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (32, 95)])
@pytest.mark.parametrize("name", ["tiny", "tiny-cifar"])
def test_small_and_odd_sizes_train(name, size):
    network = HCGNet(arch=make_arch(NETWORKS[name])).train()
    (out,) = network(torch.randn(2, 3, *size))
    out.sum().backward()
    assert out.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in network.parameters())


# State dict and truncation


@pytest.mark.parametrize("name", NETWORKS)
def test_state_dict_keys_and_shapes(name):
    with torch.device("meta"):
        network = HCGNet(arch=make_arch(NETWORKS[name]))
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    assert shapes == state_shapes(*NETWORKS[name])


@pytest.mark.parametrize("name", ARCHS)
def test_names_are_the_published_numbers(name):
    with torch.device("meta"):
        by_name = HCGNet(arch=name).state_dict()
    assert {key: tuple(value.shape) for key, value in by_name.items()} == state_shapes(*ARCHS[name])


@pytest.mark.parametrize("name", ["B", "A1"])
@pytest.mark.parametrize("last", [0, 1])
def test_nothing_unused_is_built(name, last):
    with torch.device("meta"):
        network = HCGNet(arch=name, out_indices=last)
    expected = {
        key
        for key in state_shapes(*ARCHS[name])
        if is_part_of(
            key,
            [
                "stem.",
                *(f"stages.{i}." for i in range(last + 1)),
                *(f"transitions.{i}." for i in range(last)),
                f"transitions.{last}.squeeze1.norm.",
            ],
        )
    }
    assert set(network.state_dict()) == expected


@pytest.mark.parametrize("out_indices", [0, 2, (1, 0)])
def test_full_checkpoint_loads_into_truncated_network(out_indices):
    full = tiny().eval()
    network = HCGNet(arch=ARCH, out_indices=out_indices).eval()
    result = network.load_state_dict(full.state_dict(), strict=False)
    assert not result.missing_keys
    assert set(result.unexpected_keys) == set(full.state_dict()) - set(network.state_dict())
    image = torch.randn(1, 3, 40, 64)
    with torch.no_grad():
        maps = full(image)
        for i, out in zip(network.out_indices, network(image), strict=True):
            torch.testing.assert_close(out, maps[i], rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "out_indices"),
    [
        ("tiny", -1),
        ("tiny", (0, 1, 2, 3)),
        ("tiny", 0),
        ("tiny", (1, 2)),
        ("tiny-cifar", -1),
        ("tiny-cifar", 1),
        ("B", (0, 1, 2, 3)),
    ],
)
def test_every_parameter_gets_a_gradient(name, out_indices):
    """Non-zero, but for five biases a module that softmax or BN cancels."""
    cancelled = ("attention.bias", "attention3.bias", "attention5.bias", "reduce.bias")
    network = HCGNet(arch=make_arch(NETWORKS[name]), out_indices=out_indices).double().train()
    shapes = {key: tuple(value.shape) for key, value in network.state_dict().items()}
    network.load_state_dict(random_state(shapes))
    maps = network(torch.randn(4, 3, 64, 80, dtype=torch.float64))
    sum((out * torch.randn_like(out)).mean() for out in maps).backward()
    modules = sum(key.endswith("forget_gate.reduce.bias") for key in shapes)
    assert sum(key.endswith(cancelled) for key in shapes) == 5 * modules
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad, key
        assert parameter.grad is not None, key
        largest = parameter.grad.abs().max()
        if key.endswith(cancelled):
            weight = network.get_parameter(key.replace(".bias", ".weight"))
            assert largest <= 1e-9 * weight.grad.abs().max(), key
        else:
            assert largest > 1e-10, key


# Freezing


def frozen_prefixes(frozen_stages: int, built: int) -> list[str]:
    if frozen_stages < 0:
        return []
    if frozen_stages == built:
        return [""]
    stages = [f"stages.{i}." for i in range(frozen_stages)]
    feeding = [f"transitions.{i}." for i in range(frozen_stages - 1)]
    return ["stem.", *stages, *feeding]


@pytest.mark.parametrize(
    ("out_indices", "frozen_stages"),
    [((0, 1, 2, 3), i) for i in range(-1, 5)] + [((0, 1), i) for i in range(-1, 3)],
)
def test_freezing(out_indices, frozen_stages):
    network = tiny(out_indices=out_indices, frozen_stages=frozen_stages)
    prefixes = frozen_prefixes(frozen_stages, built=len(out_indices))
    network.train()
    network.eval()
    assert not any(module.training for module in network.modules())
    network.train()

    names = norm_names(network.state_dict())
    for name in names:
        assert network.get_submodule(name).training is not is_part_of(name + ".", prefixes), name
    for key, parameter in network.named_parameters():
        assert parameter.requires_grad is not is_part_of(key, prefixes), key

    before = {key: buffer.clone() for key, buffer in network.named_buffers()}
    maps = network(torch.randn(2, 3, 64, 64))
    for key, buffer in network.named_buffers():
        assert torch.equal(buffer, before[key]) is is_part_of(key, prefixes), key
    if frozen_stages < len(out_indices):
        sum(out.sum() for out in maps).backward()
    for key, parameter in network.named_parameters():
        assert (parameter.grad is None) is is_part_of(key, prefixes), key


def test_norm_eval():
    network = tiny(norm_eval=True)
    network.train()
    network.eval()
    network.train()
    before = {key: buffer.clone() for key, buffer in network.named_buffers()}
    sum(out.sum() for out in network(torch.randn(2, 3, 64, 64))).backward()
    for name in norm_names(network.state_dict()):
        assert not network.get_submodule(name).training
    for key, buffer in network.named_buffers():
        assert torch.equal(buffer, before[key]), key
    for key, parameter in network.named_parameters():
        assert parameter.grad is not None, key
    assert network.training and network.stages[0].training


def test_train_and_eval_return_the_network():
    network = tiny(frozen_stages=1, norm_eval=True)
    assert network.train() is network
    assert network.eval() is network


# Layer configs


@pytest.mark.parametrize("out_indices", [(0, 1, 2, 3), (0,)])
def test_sync_bn_by_config(out_indices):
    network = tiny(out_indices=out_indices, norm_cfg=dict(type="SyncBN"))
    names = norm_names(network.state_dict())
    sync = [key for key, m in network.named_modules() if isinstance(m, nn.SyncBatchNorm)]
    assert sorted(sync) == sorted(names)
    assert not [m for m in network.modules() if type(m) is nn.BatchNorm2d]
    assert set(network.state_dict()) == set(tiny(out_indices=out_indices).state_dict())


def test_sync_bn_by_conversion():
    network = tiny(frozen_stages=1)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        expected = network.eval()(image)
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
        actual = network(image)
    for name in norm_names(network.state_dict()):
        assert isinstance(network.get_submodule(name), nn.SyncBatchNorm), name
    for out, target in zip(actual, expected, strict=True):
        torch.testing.assert_close(out, target, rtol=0, atol=0)
    network.train()
    assert not network.stages[0][0].squeeze1.norm.training
    assert network.stages[1][0].squeeze1.norm.training


def test_norm_config_options_reach_every_norm():
    network = tiny(norm_cfg=dict(type="BN", eps=1e-3, momentum=0.03, requires_grad=False))
    for name in norm_names(network.state_dict()):
        norm = network.get_submodule(name)
        assert (norm.eps, norm.momentum, norm.weight.requires_grad) == (1e-3, 0.03, False), name


def test_group_norm_reaches_every_norm():
    network = HCGNet(arch=ARCH, norm_cfg=dict(type="GN", num_groups=1))
    groups = [key for key, m in network.named_modules() if isinstance(m, nn.GroupNorm)]
    assert sorted(groups) == sorted(norm_names(state_shapes(*TINY)))
    assert not [m for m in network.modules() if isinstance(m, _BatchNorm)]


@pytest.mark.parametrize(
    ("arch", "num_groups", "width"),
    # B: the forget gates of the first block have 32 / 2 channels; the first squeeze of A1 has 24.
    [("B", 32, 16), ("A1", 16, 24)],
)
def test_group_norm_that_does_not_divide(arch, num_groups, width):
    with pytest.raises(ValueError, match=rf"\b{num_groups}\b") as error:
        HCGNet(arch=arch, norm_cfg=dict(type="GN", num_groups=num_groups))
    assert f" {width} " in str(error.value)
    assert "num_groups=1" in str(error.value)


def test_conv_config_reaches_every_convolution():
    class TaggedConv(nn.Conv2d):
        pass

    MODELS.register_module(module=TaggedConv)
    try:
        network = HCGNet(arch=ARCH, conv_cfg=dict(type="TaggedConv"))
    finally:
        MODELS.module_dict.pop("TaggedConv")
    convs = {key for key, shape in state_shapes(*TINY).items() if len(shape) == 4}
    tagged = {f"{key}.weight" for key, m in network.named_modules() if type(m) is TaggedConv}
    assert tagged == convs


@pytest.mark.parametrize("name", ["GELU", "SiLU", "LeakyReLU"])
def test_act_config_reaches_every_activation_but_those_of_the_gates(name):
    network = tiny(act_cfg=dict(type=name)).eval()
    state = random_state(state_shapes(*TINY))
    image = torch.randn(2, 3, 64, 80)
    with torch.no_grad():
        expected = Reference(state, act=build_activation_layer(dict(type=name)))(image.double())
        actual = network(image)
    for out, target in zip(actual, expected, strict=True):
        torch.testing.assert_close(out.double(), target, rtol=1e-4, atol=1e-5)


def test_configs_are_left_alone():
    configs = dict(
        arch=make_arch(TINY),
        norm_cfg=dict(type="BN", eps=1e-3),
        act_cfg=dict(type="LeakyReLU", negative_slope=0.2),
        conv_cfg=dict(type="Conv2d"),
    )
    copies = {key: dict(value) for key, value in configs.items()}
    HCGNet(**configs)
    assert configs == copies


# Checkpointing in the plain form; test_forms.py has the memory-saving form


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        dict(frozen_stages=2),
        dict(norm_eval=True),
        dict(norm_cfg=dict(type="BN", track_running_stats=False)),
    ],
    ids=str,
)
def test_with_cp_changes_nothing(kwargs):
    image = torch.randn(2, 3, 64, 80)
    results = []
    for with_cp in (False, True):
        network = tiny(with_cp=with_cp, **kwargs).train()
        network.plain = True
        calls = []
        network.stages[3][0].squeeze1.conv.register_forward_hook(lambda *_, c=calls: c.append(1))
        maps = network(image)
        sum((out**2).mean() for out in maps).backward()
        results.append((network, maps, len(calls)))
    (plain, plain_maps, plain_calls), (saved, saved_maps, saved_calls) = results
    assert (plain_calls, saved_calls) == (1, 2)  # the forward pass runs again in the backward
    for out, target in zip(saved_maps, plain_maps, strict=True):
        torch.testing.assert_close(out, target)
    expected = dict(plain.named_parameters())
    for key, parameter in saved.named_parameters():
        if expected[key].grad is None:
            assert parameter.grad is None, key
        else:
            torch.testing.assert_close(parameter.grad, expected[key].grad, msg=key)
    expected = dict(plain.named_buffers())
    for key, buffer in saved.named_buffers():
        torch.testing.assert_close(buffer, expected[key], msg=key)


# A batch of one


@pytest.mark.parametrize("kwargs", [{}, dict(frozen_stages=2), dict(with_cp=True)])
def test_batch_of_one_in_training_names_the_ways_out(kwargs):
    network = HCGNet(arch=ARCH, **kwargs).train()
    with pytest.raises(ValueError) as error:
        network(torch.randn(1, 3, 64, 64))
    for way_out in ("larger batch", "norm_eval=True", "norm_cfg"):
        assert way_out in str(error.value)


@pytest.mark.parametrize(
    ("training", "kwargs"),
    [
        (False, {}),
        (True, dict(norm_eval=True)),
        (True, dict(norm_cfg=dict(type="GN", num_groups=1))),
        (True, dict(frozen_stages=4)),
    ],
)
def test_batch_of_one_elsewhere(training, kwargs):
    network = HCGNet(arch=ARCH, **kwargs).train(training)
    (out,) = network(torch.randn(1, 3, 64, 64))
    assert out.isfinite().all()


# Precision


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", ["tiny", "tiny-cifar"])
def test_low_precision_is_close_to_fp32(name, dtype):
    depths = NETWORKS[name][0]
    indices = tuple(range(len(depths)))
    network = HCGNet(arch=make_arch(NETWORKS[name]), out_indices=indices).eval()
    network.load_state_dict(random_state(state_shapes(*NETWORKS[name])))
    side = 256 if name == "tiny-cifar" else 128  # 65,536 positions for the softmax of the former
    image = torch.randn(1, 3, side, side)
    with torch.no_grad():
        expected = network(image)
        actual = network.to(dtype)(image.to(dtype))
    tolerance = 0.05 if dtype is torch.bfloat16 else 0.01
    for out, target in zip(actual, expected, strict=True):
        assert out.dtype is dtype
        assert (out.float() - target).norm() <= tolerance * target.norm()


def test_attention_over_a_large_map_keeps_its_mass_in_fp16():
    """Shares of 1 / 630,000 are hardly representable in fp16: their sum has to stay 1."""
    values = torch.tensor([3.0, -0.5, 1.0, 7.0], dtype=torch.float16)
    attention = nn.Conv2d(4, 1, 1).half()
    x = values.view(1, 4, 1, 1).expand(2, 4, 700, 900)
    pooled = attention_pool(x, attention(x))
    assert pooled.dtype is torch.float16
    torch.testing.assert_close(pooled, values.expand(2, 4), rtol=2e-3, atol=0)


def test_bf16_autocast():
    image = torch.randn(4, 3, 64, 96)
    network = tiny().eval()
    with torch.no_grad():
        expected = network(image)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            actual = network(image)
    for out, target in zip(actual, expected, strict=True):
        assert (out.float() - target).norm() <= 0.05 * target.norm()

    network.train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = sum(out.float().square().mean() for out in network(image))
    loss.backward()
    for key, parameter in network.named_parameters():
        assert parameter.grad.dtype is torch.float32, key
        assert parameter.grad.isfinite().all(), key


# Wrong arguments


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        (dict(arch="D"), ["'D'", "A1", "A2", "A3", "B", "C"]),
        (dict(arch=50), ["50", "A1", "dict"]),
        (dict(arch=dict(depths=(1, 1))), ["growth_rates"]),
        (dict(arch=ARCH | dict(width=3)), ["width", "depths", "growth_rates", "stem"]),
        (dict(arch=ARCH | dict(depths=(1, 1))), ["depths", "growth_rates", "2", "4"]),
        (dict(arch=dict(depths=(), growth_rates=())), ["depths"]),
        (dict(arch=ARCH | dict(depths=(1, 0, 1, 1))), ["depths", "above 0"]),
        (dict(arch=ARCH | dict(growth_rates=(8, 8, -4, 8))), ["growth_rates", "above 0"]),
        (dict(arch=ARCH | dict(growth_rates=(8, 8, 8.5, 8))), ["growth_rates", "integers"]),
        (dict(arch=ARCH | dict(stem="resnet")), ["'resnet'", "imagenet", "cifar"]),
        (dict(arch=ARCH | dict(growth_rates=(8, 10, 8, 8))), ["10", "4", "groups"]),
        (dict(in_channels=0), ["in_channels", "0"]),
        (dict(in_channels="rgb"), ["in_channels", "rgb"]),
        (dict(out_indices=4), ["out_indices", "-4", "3"]),
        (dict(out_indices=-5), ["out_indices", "-4", "3"]),
        (dict(out_indices=(0, 7)), ["out_indices", "-4", "3"]),
        (dict(out_indices=()), ["out_indices"]),
        (dict(out_indices=(1, 1)), ["out_indices", "once"]),
        (dict(out_indices=(3, -1)), ["out_indices", "once"]),
        (dict(out_indices=(0.5,)), ["out_indices"]),
        (dict(out_indices="0"), ["out_indices"]),
        (dict(out_indices=None), ["out_indices"]),
        (dict(frozen_stages=5), ["frozen_stages", "-1", "4"]),
        (dict(frozen_stages=-2), ["frozen_stages", "-1", "4"]),
        (dict(frozen_stages=1.5), ["frozen_stages", "-1", "4"]),
    ],
)
def test_wrong_arguments(kwargs, words):
    with pytest.raises(ValueError) as error:
        HCGNet(**(dict(arch=ARCH) | kwargs))
    for word in words:
        assert word in str(error.value)


def test_indices_and_freezing_are_checked_against_the_three_stages_of_cifar():
    for kwargs in (dict(out_indices=3), dict(frozen_stages=4)):
        with pytest.raises(ValueError):
            HCGNet(arch="A1", **kwargs)


# Pretrained weights


@pytest.fixture
def weights(tmp_path):
    """A classifier's checkpoint and what it holds for the backbone."""
    state = {key: value.float() for key, value in random_state(state_shapes(*TINY)).items()}
    checkpoint = {f"backbone.{key}": value for key, value in state.items()}
    checkpoint["head.fc.weight"] = torch.ones(10, 62)

    def save(change=None):
        if change:
            change(checkpoint)
        path = tmp_path / "weights.pth"
        torch.save(dict(meta={}, state_dict=checkpoint), path)
        return str(path)

    return state, save


def pretrained(path: str, **kwargs) -> HCGNet:
    init_cfg = dict(type="Pretrained", checkpoint=path, prefix=kwargs.pop("prefix", "backbone."))
    network = HCGNet(arch=ARCH, init_cfg=init_cfg, **kwargs)
    network.init_weights()
    return network


def test_gates_start_neutral():
    """At first a module halves its squeezed map and adds next to nothing, whatever the image."""
    torch.manual_seed(0)
    network = HCGNet(arch=ARCH)
    network.init_weights()
    module = network.stages[0][0]
    squeezed = torch.randn(4, module.out_channels, 9, 11)
    pooled = attention_pool(squeezed, module.forget_gate.attention(squeezed))
    torch.testing.assert_close(pooled, squeezed.mean((2, 3)))
    assert (module.forget_gate(squeezed) - 0.5).abs().max() < 0.05
    v = module.update_gate(module.branch3(squeezed), module.branch5(squeezed))
    assert 0 < v.abs().max() < 0.1 * squeezed.std()


@pytest.mark.parametrize("prefix", ["backbone.", "backbone"])
@pytest.mark.parametrize("out_indices", [-1, (0, 1)])
def test_pretrained_weights_are_loaded(weights, out_indices, prefix):
    state, save = weights
    network = pretrained(save(), out_indices=out_indices, prefix=prefix)
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key


def test_pretrained_weights_are_loaded_inside_a_model(weights):
    class Model(BaseModule):
        def __init__(self, path):
            super().__init__()
            init_cfg = dict(type="Pretrained", checkpoint=path, prefix="backbone.")
            self.backbone = HCGNet(arch=ARCH, init_cfg=init_cfg)

    state, save = weights
    model = Model(save())
    model.init_weights()
    for key, value in model.backbone.state_dict().items():
        assert torch.equal(value, state[key].to(value.dtype)), key


def test_missing_weights_say_what_to_do(tmp_path):
    path = str(tmp_path / "absent.pth")
    with pytest.raises(FileNotFoundError) as error:
        pretrained(path)
    message = str(error.value)
    assert path in message
    assert "init_cfg" in message and "scratch" in message
    assert "\n" not in message


@pytest.mark.parametrize(
    "key", ["norm.bias", "stem.1.norm.running_var", "stages.1.1.update_gate.attention5.bias"]
)
def test_weights_that_lack_a_key(weights, key):
    _, save = weights
    path = save(lambda checkpoint: checkpoint.pop(f"backbone.{key}"))
    with pytest.raises(RuntimeError) as error:
        pretrained(path)
    assert key in str(error.value)


def test_weights_of_another_shape(weights):
    _, save = weights
    key = "stages.2.0.squeeze2.conv.weight"
    path = save(lambda checkpoint: checkpoint.update({f"backbone.{key}": torch.ones(16, 4, 3, 3)}))
    with pytest.raises(RuntimeError) as error:
        pretrained(path)
    assert key in str(error.value)
    assert "(16, 4, 3, 3)" in str(error.value) and "(16, 16, 3, 3)" in str(error.value)


def test_weights_under_another_prefix(weights):
    _, save = weights
    with pytest.raises(RuntimeError, match="prefix"):
        pretrained(save(), prefix="features.")


# Initialisation


def test_initialisation_keeps_the_signal():
    """A deep network from scratch neither dies nor explodes, and images stay apart."""
    network = HCGNet(arch="B", out_indices=(0, 1, 2, 3))
    network.init_weights()
    network.train()
    with torch.no_grad():
        maps = network(torch.randn(4, 3, 64, 64))
    for out in maps:
        assert 0.2 < out.std() < 2
        assert (out[0] - out[1]).abs().mean() > 0.05
    for name in norm_names(network.state_dict()):
        norm = network.get_submodule(name)
        assert (norm.weight == 1).all() and (norm.bias == 0).all(), name


def test_weight_init_pytorch_is_pytorchs_default_in_every_layer():
    """Uniform up to ``1 / sqrt(fan_in)``, weights and biases, as ``reset_parameters`` draws."""
    network = HCGNet(arch="A1", weight_init="pytorch")
    network.init_weights()
    layers = {k: m for k, m in network.named_modules() if isinstance(m, nn.Conv2d | nn.Linear)}
    assert {name.rsplit(".", 1)[-1] for name in layers} == {
        *("conv", "attention", "attention3", "attention5"),
        *("reduce", "expand", "expand3", "expand5"),
    }
    for name, layer in layers.items():
        bound = layer.weight[0].numel() ** -0.5
        for tensor in (layer.weight, layer.bias):
            if tensor is not None:
                assert 0 < tensor.abs().max() <= bound, name
                spread = (tensor.square().mean() * 3).sqrt() / bound
                assert abs(spread - 1) < 2.5 / tensor.numel() ** 0.5, name
    for name in norm_names(network.state_dict()):
        norm = network.get_submodule(name)
        assert (norm.weight == 1).all() and (norm.bias == 0).all(), name


def test_init_cfg_follows_weight_init_pytorch(tmp_path):
    cfg = dict(type="Constant", layer="Conv2d", val=0.5, bias=0.25)
    network = HCGNet(arch=ARCH, weight_init="pytorch", init_cfg=cfg)
    network.init_weights()
    module = network.stages[0][0]
    assert (module.branch3.conv.weight == 0.5).all()
    assert (module.forget_gate.attention.bias == 0.25).all()
    assert module.forget_gate.expand.bias.std() > 0  # fully connected, not named by it
    path = str(tmp_path / "weights.pth")
    torch.save(tiny(out_indices=-1).state_dict(), path)
    cfg = dict(type="Pretrained", checkpoint=path)
    network = HCGNet(arch=ARCH, weight_init="pytorch", init_cfg=cfg)
    network.init_weights()
    for name, tensor in torch.load(path).items():
        assert torch.equal(network.state_dict()[name], tensor), name


def test_an_unknown_weight_init_is_refused():
    with pytest.raises(ValueError, match="weight_init must be 'neutral' or 'pytorch', got 'torch'"):
        HCGNet(arch=ARCH, weight_init="torch")


# Layer-wise learning rates


@pytest.mark.parametrize("out_indices", [-1, (0, 1), 0])
@pytest.mark.parametrize("prefix", ["", "backbone."])
def test_layer_depth(prefix, out_indices):
    network = HCGNet(arch=ARCH, out_indices=out_indices)
    names = {key for key, _ in network.named_parameters()}
    depths = []
    for key in state_shapes(*TINY):  # in the order of the forward pass
        if key in names:
            depth, num_layers = network.get_layer_depth(prefix + key, prefix)
            depths.append(depth)
            assert (depth == 0) is key.startswith("stem.")
    assert depths == sorted(depths)
    assert set(depths) == set(range(num_layers - 1))
    assert depths[-1] == num_layers - 2
    if prefix:
        assert network.get_layer_depth("head.fc.weight", prefix) == (num_layers - 1, num_layers)


def test_layer_wise_learning_rates_of_mmpretrain():
    model = ImageClassifier(
        backbone=dict(type="mmhcgnet.HCGNet", arch=ARCH),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=5, in_channels=62),
    )
    constructor = LearningRateDecayOptimWrapperConstructor(
        dict(optimizer=dict(type="SGD", lr=1.0, weight_decay=0.1)),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    groups = constructor(model).param_groups
    rate_of = {id(parameter): group["lr"] for group in groups for parameter in group["params"]}
    rates = {key: rate_of[id(parameter)] for key, parameter in model.named_parameters()}
    # The stem, six modules, three transitions, and what follows the backbone.
    assert rates["head.fc.weight"] == 1
    assert rates["backbone.norm.weight"] == 0.5
    assert rates["backbone.stages.0.0.squeeze1.conv.weight"] == 0.5**9
    assert rates["backbone.stem.0.conv.weight"] == 0.5**10


# On a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("with_cp", [False, True])
def test_amp_training_on_gpu(with_cp):
    network = HCGNet(arch="B", with_cp=with_cp).to("cuda").train()
    network.init_weights()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    scaler = torch.amp.GradScaler("cuda")
    for _ in range(3):
        optimizer.zero_grad()
        with torch.autocast("cuda", dtype=torch.float16):
            (out,) = network(torch.randn(4, 3, 224, 320, device="cuda"))
        assert out.isfinite().all()
        scaler.scale(out.float().square().mean()).backward()
        scaler.step(optimizer)
        scaler.update()
    assert all(parameter.isfinite().all() for parameter in network.parameters())


def test_the_drawings_are_what_their_script_draws(tmp_path):
    """And that of a module names its parts."""
    docs = Path(__file__).parents[2] / "docs"
    script = tmp_path / "draw_figures.py"
    script.write_text((docs / "draw_figures.py").read_text(encoding="utf-8"), encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")
    drawings = {path.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*.svg")}
    assert sorted(drawings) == ["block.svg", "forms.svg", "gates.svg", "smg.svg"]
    for name, drawing in drawings.items():
        assert drawing == (docs / name).read_text(encoding="utf-8")
    for name, _ in HCGNet(ARCH).stages[0][0].named_children():
        assert f">{name}<" in drawings["smg.svg"]
