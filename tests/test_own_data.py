"""The page "15 minutes with your own data", followed word by word on a few small images."""

import json
import re
import shutil
from pathlib import Path

import pytest

from mmhcgnet.datasets import shapes

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/own_data.md").read_text(encoding="utf-8")
TINY = dict(depths=[1] * 4, growth_rates=[8] * 4)


def block(name):
    return re.search(rf"<!-- test: {name} -->\n```python\n(.*?)```", PAGE, re.S)[1]


@pytest.fixture
def place(tmp_path, monkeypatch):
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def few_classes(text, old, new):
    """The page's config, with classes that the built-in data have."""
    assert str(old) in text
    return text.replace(str(old), str(new))


@pytest.mark.slow(reason="does all that the page says, a training included")
@pytest.mark.parametrize("masks", [True, False], ids=["masks", "boxes"])
def test_detection(start, place, masks):
    shapes.write_detection(place / "shapes", images=10, val_images=1, size=64)
    (place / "data/own").mkdir(parents=True)
    shutil.copytree(place / "shapes/train", place / "data/own/images")
    everything = json.loads((place / "shapes/annotations/instances_train.json").read_text())
    if not masks:
        for note in everything["annotations"]:
            del note["segmentation"]
    (place / "data/own/annotations.json").write_text(json.dumps(everything))

    text = block("detection") + ("" if masks else block("boxes"))
    text = few_classes(
        text, '"person", "bottle", "bowl", "sink"', '"cross", "ellipse", "star", "triangle"'
    )
    text = few_classes(text, "max_epochs = 20", "max_epochs = 1")
    text = few_classes(text, "val_interval=5", "val_interval=1")
    for size, small in ((320, 48), (480, 64), (400, 64)):
        text = few_classes(text, f"{size}", f"{small}")
    (place / "my_config.py").write_text(text)

    start("dataset_converters/split_coco.py", "data/own/annotations.json", code=0)
    found = start("misc/check_data.py", "my_config.py", code=0).out
    assert "8 images (train_dataloader" in found and "faults to fix: 0" in found
    start("train.py", "my_config.py", code=0)
    checkpoint = "work_dirs/my_config/epoch_1.pth"
    start("../demo/image_demo.py", "data/own/images", "my_config.py", checkpoint, code=0)
    assert len(list((place / "outputs").glob("*.png"))) == 10


def test_classification(start, place):
    shapes.write_classification(place / "shapes", images=60, val_images=5, size=64)
    for name in ("cross", "ellipse", "star"):
        shutil.copytree(place / "shapes/train" / name, place / "data/classes/train" / name)
    text = block("classification")
    text = few_classes(text, '"cat", "frog", "ship"', '"cross", "ellipse", "star"')
    text += f"model['backbone'] = dict(arch=dict(_delete_=True, **{TINY}))\n"
    text += "model['head']['in_channels'] = 23\n"
    (place / "my_classes.py").write_text(text)
    start("dataset_converters/split_folders.py", "data/classes", code=0)
    assert "faults to fix: 0" in start("misc/check_data.py", "my_classes.py", code=0).out
    start("train.py", "my_classes.py", "--cfg-options", "train_cfg.max_epochs=1", code=0)
    checkpoint = "work_dirs/my_classes/epoch_1.pth"
    start("../demo/image_demo.py", "data/classes/train", "my_classes.py", checkpoint, code=0)
    assert len(list((place / "outputs").rglob("*.png"))) == 36
