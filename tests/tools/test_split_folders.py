"""Class folders become lists for training and validation."""

import cv2
import numpy as np
import pytest
from mmpretrain.datasets import CustomDataset

SCRIPT = "dataset_converters/split_folders.py"


@pytest.fixture
def data(tmp_path):
    for name, count in {"cat": 10, "a dog": 20}.items():
        for i in range(count):
            path = tmp_path / "train" / name / f"{i}.{'png' if i % 2 else 'JPG'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.full((8, 8, 3), i, np.uint8))
        (path.parent / "notes.txt").write_text("no image")
        (path.parent / "folder.png").mkdir()
    # What macOS and Jupyter leave behind.
    for hidden in ("train/cat/._0.png", "train/.ipynb_checkpoints/0.png", "train/cat/.trash/0.png"):
        (tmp_path / hidden).parent.mkdir(exist_ok=True)
        (tmp_path / hidden).write_text("")
    return tmp_path


def lists(data):
    return [(data / f"{name}.txt").read_text().splitlines() for name in ("train", "val")]


def test_every_class_gives_its_share_and_no_image_is_lost_or_twice(start, data):
    assert "val.txt: 6 images of 2 classes" in start(SCRIPT, data, "--share", 0.2, code=0).out
    train, val = lists(data)
    assert len(train) == 24 and len(set(train) | set(val)) == 30
    # The class folders in alphabetical order, as MMPretrain counts them.
    assert sorted(line.rsplit(" ", 1)[1] for line in val) == ["0"] * 4 + ["1"] * 2
    for name, count in (("train", 24), ("val", 6)):
        found = CustomDataset(data_root=str(data), ann_file=f"{name}.txt", data_prefix="train")
        assert len(found) == count
        for info in found.load_data_list():
            assert ("a dog" in info["img_path"]) == (info["gt_label"] == 0)
            assert cv2.imread(info["img_path"]) is not None


def test_links_are_followed_but_in_circles(start, data, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    for i in range(10):
        (other / f"{i}.png").write_bytes(b"")
    cat = data / "train/cat"
    for name, folder in (
        ("more", other),
        ("up", data / "train"),
        ("itself", cat),
        ("absent", "no"),
    ):
        (cat / name).symlink_to(folder)
    (other / "back").symlink_to(cat)
    start(SCRIPT, data, code=0)
    cats = [line for lines in lists(data) for line in lines if line.startswith("cat/")]
    assert len(set(cats)) == len(cats) == 20
    assert len([line for line in cats if line.startswith("cat/more/")]) == 10


def test_the_seed_decides(start, data):
    found = []
    for seed in (0, 0, 1):
        start(SCRIPT, data, "--seed", seed, "--force", code=0)
        found.append(lists(data))
    assert found[0] == found[1] != found[2]


def test_lists_that_are_there_are_not_replaced(start, data):
    (data / "val.txt").write_text("mine")
    assert "val.txt already exists" in start(SCRIPT, data, code=2).err
    assert (data / "val.txt").read_text() == "mine" and not (data / "train.txt").exists()
    start(SCRIPT, data, "--force", code=0)
    start(SCRIPT, data, code=0)  # the same lists once more


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda data: (data / "train").rename(data / "other"), "a folder for each class"),
        (lambda data: (data / "train/few").mkdir(), "few has 0 images"),
    ],
    ids=["none", "empty class"],
)
def test_what_cannot_be_split_ends_in_a_sentence(start, data, change, sentence):
    change(data)
    result = start(SCRIPT, data, code=2)
    assert result.err.startswith("error: ") and sentence in result.err
    assert not (data / "val.txt").exists()
