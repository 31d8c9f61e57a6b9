"""Weights in the authors' own layouts are no pretrained weights of ours."""

import pytest
import torch
from helpers.official import classifier_shapes, detector_shapes
from mmengine.model import PretrainedInit

from mmhcgnet.errors import PretrainedMismatchError
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
