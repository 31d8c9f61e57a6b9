"""Weights in the authors' own layouts are no pretrained weights of ours."""

import pytest
import torch
from official import classifier_shapes, detector_shapes

from mmhcgnet.models import HCGNet
from mmhcgnet.models.pretrained import PretrainedMismatchError


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
