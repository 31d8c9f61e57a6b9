"""Weights in the authors' own layouts are no pretrained weights of ours."""

import pytest
import torch
from helpers.official import classifier_shapes, detector_shapes
from helpers.opened import OPENED, reads
from mmengine.config import ConfigDict
from mmengine.model import BaseModule, PretrainedInit

from mmhcgnet.checkpoints import use_safe_loader
from mmhcgnet.cli.preflight import check_pretrained_files
from mmhcgnet.errors import PretrainedMismatchError, UsageError
from mmhcgnet.models import HCGNet


@pytest.mark.parametrize("prefix", ["backbone.", None])
@pytest.mark.parametrize(
    ("save", "converter"),
    [
        (
            lambda: dict(
                net={f"module.{k}": torch.zeros(v) for k, v in classifier_shapes("A1", 10).items()},
                epoch=1269,
            ),
            "official_to_mmpretrain.py",
        ),
        (
            lambda: dict(
                state_dict={
                    k: torch.zeros(v)
                    for k, v in detector_shapes("B").items()
                    if k.startswith("backbone.")
                }
            ),
            "official_to_mmdet.py",
        ),
    ],
    ids=["classifier", "detector"],
)
def test_the_authors_files_are_refused_with_the_converter(tmp_path, save, converter, prefix):
    path = str(tmp_path / "official.pth")
    torch.save(save(), path)
    init_cfg = dict(type="Pretrained", checkpoint=path, prefix=prefix)
    network = HCGNet("A1", init_cfg=init_cfg)
    with pytest.raises(PretrainedMismatchError, match=f"model_converters/{converter} {path}`"):
        network.init_weights()


def test_weights_that_are_not_finite_are_refused(tmp_path):
    network = HCGNet("A1")
    weights = network.state_dict()
    weights["stem.conv.weight"] = weights["stem.conv.weight"] / 0
    torch.save(weights, tmp_path / "a.pth")
    network.init_cfg = dict(type="Pretrained", checkpoint=str(tmp_path / "a.pth"))
    with pytest.raises(PretrainedMismatchError, match=r"1 not finite \(stem\.conv\.weight\)"):
        network.init_weights()


@pytest.mark.parametrize("kind", ["Pretrained", "PretrainedInit", PretrainedInit])
@pytest.mark.parametrize("part", ["stem", "stages.0", "norm"])
def test_a_part_of_a_backbone_is_refused_whatever_the_type_is_written_as(tmp_path, kind, part):
    arch = dict(depths=(1, 1), growth_rates=(8, 8))
    weights = HCGNet(arch).state_dict()
    path = str(tmp_path / "part.pth")
    torch.save({k: v for k, v in weights.items() if k.startswith(part)} or {"x": weights}, path)
    network = HCGNet(arch, frozen_stages=0, init_cfg=dict(type=kind, checkpoint=path))
    with pytest.raises(PretrainedMismatchError, match="missing"):
        network.init_weights()
    torch.save(weights, path)
    if kind != "PretrainedInit":  # MMEngine knows it by the other name
        network.init_weights()


def save_weights(path, network, **changes):
    weights = {f"backbone.{name}": tensor + 1 for name, tensor in network.state_dict().items()}
    torch.save(dict(state_dict=weights | changes), path)
    return weights


@pytest.mark.parametrize("ahead", [False, True], ids=["alone", "checked before"])
def test_the_file_is_read_once_and_loaded_after_all_else(tmp_path, ahead):
    use_safe_loader()
    path = str(tmp_path / "a.pth")
    network = HCGNet("A1")
    weights = save_weights(path, network, **{"head.fc.weight": torch.ones(3)})
    init_cfg = [
        dict(type="Pretrained", checkpoint=path, prefix="backbone"),
        dict(type="Constant", layer="Conv2d", val=7),
    ]
    OPENED.clear()
    if ahead:
        check_pretrained_files(ConfigDict(backbone=dict(init_cfg=init_cfg)))
    network = HCGNet("A1", init_cfg=init_cfg)
    network.init_weights()
    assert reads(path) == 1 and network.init_cfg == init_cfg
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, weights[f"backbone.{name}"]), name


def test_it_ends_as_with_mmengines_own_loading(tmp_path):
    path = str(tmp_path / "a.pth")
    save_weights(path, HCGNet("A1"))
    ends = []
    for initialise in (BaseModule.init_weights, HCGNet.init_weights):
        init_cfg = dict(type="Pretrained", checkpoint=path, prefix="backbone")
        network = HCGNet("A1", init_cfg=init_cfg)
        torch.manual_seed(1)
        initialise(network)
        assert network.is_init
        # What is initialised next begins at the same random numbers.
        ends.append([*network.state_dict().values(), torch.rand(1)])
    assert all(torch.equal(*pair) for pair in zip(*ends, strict=True))


ODD = {
    "a number": 3,
    "none": None,
    "a list": [torch.ones(1)],
    "integer keys": {0: torch.ones(1)},
    "numbers as tensors": {"backbone.stem.conv.weight": 3},
    "twice": {"a": torch.ones(1), "module.a": torch.ones(1)},
}


@pytest.mark.parametrize("kind", ODD)
def test_whatever_else_a_file_holds_is_one_sentence(tmp_path, kind):
    use_safe_loader()
    path = str(tmp_path / "a.pth")
    torch.save(ODD[kind], path)
    network = HCGNet("A1", init_cfg=dict(type="Pretrained", checkpoint=path, prefix="backbone"))
    with pytest.raises((UsageError, PretrainedMismatchError)) as error:
        network.init_weights()
    assert path in str(error.value) and str(error.value).isprintable()
