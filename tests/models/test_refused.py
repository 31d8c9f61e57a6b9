"""Arguments that would build a network which cannot run, or another one than was meant."""

import pytest
import torch
from helpers.reference import TINY, make_arch
from mmengine.registry import MODELS
from torch import nn

from mmhcgnet.models import HCGNet

ARCH = make_arch(TINY)


@pytest.mark.parametrize(
    ("norm_cfg", "reason"),
    [
        (dict(type="GN"), "without num_groups"),
        (dict(type="IN"), "instance norm"),
        (dict(type="IN", affine=True), "instance norm"),
        (dict(type="IN", track_running_stats=True), "instance norm"),
        (dict(type="LN"), "layer norm"),
    ],
)
def test_norms_that_do_not_suit_the_gates_or_the_maps(norm_cfg, reason):
    with pytest.raises(ValueError, match=f"norm_cfg is .*{reason}") as error:
        HCGNet(ARCH, norm_cfg=norm_cfg)
    assert "num_groups=1" in str(error.value)


def test_the_norms_that_the_refusals_name_run():
    pytest.importorskip("mmpretrain.models")
    for norm_cfg in (dict(type="GN", num_groups=1), dict(type="mmpretrain.LN2d")):
        maps = HCGNet(ARCH, norm_cfg=norm_cfg)(torch.randn(1, 3, 64, 80))
        assert all(x.isfinite().all() for x in maps)


@pytest.mark.parametrize(
    "key, name, hint",
    [
        ("norm_cfg", "BNN", "did you mean BN"),
        ("act_cfg", "RELU", "did you mean .*ReLU"),
        ("conv_cfg", "conv2d", "did you mean .*Conv2d"),
        ("norm_cfg", "zzzzzz", r"is registered\.$"),
    ],
)
def test_a_misspelt_layer_gets_close_names(key, name, hint):
    with pytest.raises(ValueError, match=f"No layer can be built from {key}=.*{name}.*{hint}"):
        HCGNet(ARCH, **{key: dict(type=name)})


def test_a_layer_that_is_there_and_fails_keeps_its_reason():
    class Failing(nn.ReLU):
        def __init__(self) -> None:
            super().__init__()
            raise KeyError("colour")

    MODELS.register_module(module=Failing)
    try:
        with pytest.raises(ValueError, match="No layer can be built from act_cfg=.*colour"):
            HCGNet(ARCH, act_cfg=dict(type="Failing"))
    finally:
        MODELS.module_dict.pop("Failing")


@pytest.mark.parametrize("name", ["out_indices", "frozen_stages"])
@pytest.mark.parametrize("value", [True, False])
def test_no_truth_value_passes_for_a_stage(name, value):
    with pytest.raises(ValueError, match=rf"{name} must be .*integer.* got {value}"):
        HCGNet(ARCH, **{name: value})


def test_no_truth_value_passes_in_a_list():
    with pytest.raises(ValueError, match="out_indices must be integers"):
        HCGNet(ARCH, out_indices=(0, True))


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (dict(depth=50, style="pytorch"), "depth.* and no style.*_delete_=True"),
        (dict(num_stages=4), "num_stages.*_delete_=True"),
        (dict(out_indexes=(0,)), r"out_indexes \(did you mean out_indices\?\)"),
        (dict(pretrained="open-mmlab://resnet50_v1c"), "pretrained: .*set it to None"),
    ],
    ids=str,
)
def test_arguments_of_another_backbone_are_explained(kwargs, reason):
    """As of a config that inherits a ResNet's dict and forgot to replace it."""
    for build in (HCGNet, lambda **cfg: MODELS.build(dict(type="mmhcgnet.HCGNet", **cfg))):
        with pytest.raises(TypeError, match=f"HCGNet has no argument {reason}"):
            build(arch=ARCH, **kwargs)
