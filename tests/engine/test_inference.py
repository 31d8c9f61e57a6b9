"""Names of the classes that a trained model finds."""

import pytest
import torch
from mmdet.datasets import CocoDataset
from mmengine.config import Config

from mmhcgnet.engine.inference import class_names

OWN = dict(type="CustomDataset", metainfo=dict(classes=("cat", "dog")))


@pytest.mark.parametrize(
    "meta, dataset, names",
    [
        (dict(dataset_meta=dict(classes=["eel", "fox"])), OWN, ["eel", "fox"]),
        ({}, OWN, ["cat", "dog"]),
        ({}, dict(type="RepeatDataset", times=2, dataset=OWN), ["cat", "dog"]),
        ({}, dict(type="CustomDataset"), []),
        ({}, dict(type="mmdet.CocoDataset", pipeline=[]), list(CocoDataset.METAINFO["classes"])),
        ({}, dict(type=CocoDataset, pipeline=[]), list(CocoDataset.METAINFO["classes"])),
        ({}, None, []),
    ],
)
def test_the_file_names_the_classes_or_else_the_data(tmp_path, meta, dataset, names):
    path = tmp_path / "a.pth"
    torch.save(dict(meta=meta, state_dict=dict(weight=torch.ones(1))), path)
    loader = dict(test_dataloader=dict(dataset=dataset)) if dataset else {}
    assert class_names(Config(dict(default_scope="mmpretrain", **loader)), str(path)) == names
