"""The gates in other networks, and with another activation."""

import pytest
import torch
import torch.nn.functional as F
from helpers.reference import TINY_CIFAR, Reference, make_arch, random_state
from mmcv.cnn import build_plugin_layer
from mmengine.registry import MODELS
from torch import nn

from mmhcgnet import ForgetGatePlugin, HCGNet, MultiScaleExcitationPlugin
from mmhcgnet.models.gates import Gate

KINDS = (ForgetGatePlugin, MultiScaleExcitationPlugin)
kinds = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)


def resnet(*plugins, **options):
    """A narrow ResNet-50 of MMDetection."""
    pytest.importorskip("mmdet.models")
    cfg = dict(type="mmdet.ResNet", depth=50, base_channels=8, plugins=list(plugins))
    return cfg | options


def plugin(kind, position="after_conv3", stages=(True,) * 4, **options):
    return dict(cfg=dict(type=f"mmhcgnet.{kind}", **options), stages=stages, position=position)


def build(kind, **options):
    """A plug-in in fp64, with weights of which none is neutral, and the reference on them."""
    layer = kind(24, **dict(reduction=4) | options).double()
    shapes = {name: tuple(tensor.shape) for name, tensor in layer.state_dict().items()}
    layer.load_state_dict(random_state(shapes))
    return layer, Reference(dict(layer.state_dict()), training=True)


def test_the_forget_gate_is_that_of_the_equations():
    layer, reference = build(ForgetGatePlugin)
    x = torch.randn(3, 24, 7, 9, dtype=torch.float64)
    expected = reference.forget_gate("gate", x)[:, :, None, None] * x
    torch.testing.assert_close(layer.train()(x), expected)


def test_the_excitation_is_that_of_the_equations():
    layer, reference = build(MultiScaleExcitationPlugin)
    x = torch.randn(3, 24, 7, 9, dtype=torch.float64)
    maps = []
    for name, dilation in (("branch3", 1), ("branch5", 2)):
        weight = layer.state_dict()[f"{name}.conv.weight"]
        a = reference.activate(name, x)
        maps.append(F.conv2d(a, weight, padding=dilation, dilation=dilation, groups=24))
    expected = x + reference.update_gate("gate", *maps)[:, :, None, None]
    torch.testing.assert_close(layer.train()(x), expected)


@kinds
def test_mmcv_builds_it_as_a_plugin_layer(kind):
    cfg = dict(type=f"mmhcgnet.{kind.__name__}", norm_cfg=dict(type="GN", num_groups=1))
    name, layer = build_plugin_layer(cfg, in_channels=32, postfix="2")
    abbreviation = {KINDS[0]: "forget_gate_plugin2", KINDS[1]: "multi_scale_excitation_plugin2"}
    assert (name, type(layer)) == (abbreviation[kind], kind)
    assert not [m for m in layer.modules() if isinstance(m, nn.BatchNorm2d)]
    assert layer(torch.randn(1, 32, 5, 6)).shape == (1, 32, 5, 6)


def test_mmdetections_resnet_trains_with_both():
    stages = (False, True, True, True)
    cfg = resnet(
        plugin("ForgetGatePlugin", stages=stages, reduction=8),
        plugin("MultiScaleExcitationPlugin", "after_conv2", stages, reduction=4),
        plugin("ForgetGatePlugin", stages=stages, postfix="_b", gate_act_cfg=dict(type="ReLU")),
    )
    network = MODELS.build(cfg)
    network.init_weights()
    found = {name for name, module in network.named_modules() if isinstance(module, KINDS)}
    blocks = [f"layer{i}.{j}" for i, depth in ((2, 4), (3, 6), (4, 3)) for j in range(depth)]
    names = ("forget_gate_plugin", "multi_scale_excitation_plugin", "forget_gate_plugin_b")
    assert found == {f"{block}.{name}" for block in blocks for name in names}
    block = network.layer2[0]
    widths = [getattr(block, name).gate.reduce.in_features for name in names]
    assert widths == [64, 2 * 16, 64]  # conv3 has four times the channels, and both branches count
    assert isinstance(block.forget_gate_plugin_b.gate.act, nn.ReLU)
    # Neutral after init_weights.
    assert not block.forget_gate_plugin.gate.attention.weight.any()
    x = torch.randn(2, 3, 64, 64)
    x = network.maxpool(network.relu(network.norm1(network.conv1(x))))
    f = network.layer2[0].forget_gate_plugin.gate(torch.randn(2, 64, 8, 8))
    assert (f - 0.5).abs().max() < 0.1
    maps = network(torch.randn(2, 3, 64, 64))
    sum(each.square().mean() for each in maps).backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]


def test_mmpretrains_classifier_takes_that_resnet():
    """Its own has no plugins."""
    pytest.importorskip("mmpretrain.models")
    cfg = dict(
        type="mmpretrain.ImageClassifier",
        backbone=resnet(plugin("ForgetGatePlugin"), out_indices=(3,)),
        neck=dict(type="mmpretrain.GlobalAveragePooling"),
        head=dict(type="mmpretrain.LinearClsHead", num_classes=3, in_channels=256),
    )
    model = MODELS.build(cfg).eval()
    assert len([m for m in model.modules() if isinstance(m, ForgetGatePlugin)]) == 16
    assert model(torch.randn(1, 3, 64, 64)).shape == (1, 3)


@kinds
@pytest.mark.parametrize("reduction", [0, 25, 2.5, True])
def test_a_reduction_that_leaves_nothing(kind, reduction):
    with pytest.raises(ValueError, match=f"{kind.__name__} must be an integer from 1 to its 24"):
        kind(24, reduction=reduction)


@kinds
def test_one_image_has_no_batch_statistics(kind):
    layer = kind(24)
    with pytest.raises(ValueError, match="batch of one image"):
        layer(torch.randn(1, 24, 5, 6))
    assert layer.eval()(torch.randn(1, 24, 5, 6)).isfinite().all()


# The ablation


def test_relu_in_place_of_tanh_reaches_every_gate():
    network = HCGNet(make_arch(TINY_CIFAR), gate_act_cfg=dict(type="ReLU"))
    plain = HCGNet(make_arch(TINY_CIFAR))
    assert list(network.state_dict()) == list(plain.state_dict())
    gates = [module for module in network.modules() if isinstance(module, Gate)]
    assert len(gates) == 2 * (2 + 1 + 2 + 2)  # two a module, transitions included
    for gate in gates:
        z = torch.randn(4, gate.reduce.in_features)
        hidden = gate.hidden(z)
        expected = gate.norm(gate.reduce(z)[:, :, None, None]).flatten(1).clamp(min=0)
        torch.testing.assert_close(hidden, expected)
        assert hidden.any()


def test_the_ablation_trains_in_the_plain_form_and_has_no_deployed_one():
    plain = HCGNet(make_arch(TINY_CIFAR)).train()
    assert plain.form == "memory_saving"
    network = HCGNet(make_arch(TINY_CIFAR), gate_act_cfg=dict(type="ReLU")).train()
    assert network.form == "plain"
    (out,) = network(torch.randn(2, 3, 32, 40))
    out.sum().backward()
    assert not [name for name, p in network.named_parameters() if p.grad is None]
    with pytest.raises(ValueError, match=r"in this one .*_gate\.act is a ReLU"):
        network.eval().switch_to_deploy()


def test_an_activation_that_is_replaced_later_counts_too():
    network = HCGNet(make_arch(TINY_CIFAR)).train()
    network.stages[0][1].forget_gate.act = nn.ReLU()
    assert network.form == "plain"


def test_an_activation_that_does_not_exist():
    with pytest.raises(ValueError, match="No layer can be built from gate_act_cfg=.*Tanhh"):
        HCGNet(make_arch(TINY_CIFAR), gate_act_cfg=dict(type="Tanhh"))
