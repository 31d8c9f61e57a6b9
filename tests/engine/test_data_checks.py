import re

import pytest
from mmengine.config import Config

from mmhcgnet.engine import MissingFileError, check_data


def coco(root="data/coco/", split="train", **kwargs):
    return dict(
        type="CocoDataset",
        data_root=root,
        ann_file=f"annotations/instances_{split}2017.json",
        data_prefix=dict(img=f"{split}2017/"),
        **kwargs,
    )


def coco_config(root="data/coco/", wrap=lambda dataset: dataset):
    ann_file = f"{root}annotations/instances_val2017.json"
    return Config(
        dict(
            train_dataloader=dict(dataset=wrap(coco(root))),
            val_dataloader=dict(dataset=coco(root, "val")),
            val_evaluator=dict(type="CocoMetric", ann_file=ann_file),
        )
    )


def make_coco(folder):
    (folder / "annotations").mkdir(parents=True)
    for split in ("train", "val"):
        (folder / f"{split}2017").mkdir()
        (folder / "annotations" / f"instances_{split}2017.json").write_text("{}")
    return folder


@pytest.fixture(autouse=True)
def _in_tmp_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_missing_coco_names_the_layout_and_options_that_mend_it(tmp_path):
    cfg = coco_config()
    with pytest.raises(MissingFileError) as info:
        check_data(cfg, "train", "val")
    message = str(info.value)
    assert "train_dataloader.dataset.data_root" in message
    assert (
        "data/coco/{annotations/instances_train2017.json,train2017/,"
        "annotations/instances_val2017.json,val2017/}"
    ) in message

    make_coco(tmp_path / "elsewhere")
    options = re.findall(r"(\S+)=DIR(\S*)", message)
    cfg.merge_from_dict({key: f"elsewhere{rest}" for key, rest in options})
    check_data(cfg, "train", "val")


@pytest.mark.parametrize(
    "wrap, key",
    [
        (lambda d: dict(type="RepeatDataset", times=2, dataset=d), "dataset.dataset"),
        (
            lambda d: dict(type="ConcatDataset", datasets=[coco("here"), d]),
            "dataset.datasets.1",
        ),
        (
            lambda d: dict(type="RepeatDataset", dataset=dict(type="Mix", dataset=d)),
            "dataset.dataset.dataset",
        ),
    ],
)
def test_wrappers_are_walked(wrap, key, tmp_path):
    make_coco(tmp_path / "here")
    cfg = coco_config(wrap=wrap)
    with pytest.raises(MissingFileError, match=rf"train_dataloader\.{key}\.data_root=DIR"):
        check_data(cfg, "train")


@pytest.mark.parametrize(
    "absent, message",
    [
        ("annotations/instances_train2017.json", "annotation file .*train_dataloader.dataset.ann"),
        ("val2017", "image folder .*val_dataloader.dataset.data_prefix.img"),
    ],
)
def test_each_missing_part_is_named(absent, message, tmp_path):
    place = make_coco(tmp_path / "data" / "coco") / absent
    check_data(coco_config(), "train", "val")
    place.unlink() if place.is_file() else place.rmdir()
    with pytest.raises(MissingFileError, match=message):
        check_data(coco_config(), "train", "val")


def test_the_evaluators_file_is_checked_on_its_own(tmp_path):
    make_coco(tmp_path / "data" / "coco")
    cfg = coco_config()
    cfg.val_evaluator = [dict(type="Other"), dict(type="CocoMetric", ann_file="gone/val.json")]
    with pytest.raises(MissingFileError, match=r"--cfg-options val_evaluator\.1\.ann_file=PATH"):
        check_data(cfg, "val")
    check_data(cfg, "train")


@pytest.mark.parametrize(
    "root, flag", [("data/shapes/", ""), ("data/shapes/classification", " --classification")]
)
def test_shapes_are_made_by_a_script(root, flag):
    script = f"`python tools/dataset_converters/make_shapes.py{flag}`"
    with pytest.raises(MissingFileError, match=re.escape(script)):
        check_data(coco_config(root), "train")


def classification(**dataset):
    return Config(dict(train_dataloader=dict(dataset=dataset)))


def test_classification_sets_in_folders(tmp_path):
    cfg = classification(type="CustomDataset", data_root="data", data_prefix="train")
    (tmp_path / "data").mkdir()
    with pytest.raises(MissingFileError, match="image folder data/train "):
        check_data(cfg, "train")
    (tmp_path / "data" / "train").mkdir()
    check_data(cfg, "train")


def test_imagenet_reads_the_folder_of_its_split(tmp_path):
    (tmp_path / "imagenet").mkdir()
    cfg = classification(type="mmpretrain.ImageNet", data_root="imagenet", split="val")
    with pytest.raises(MissingFileError, match="image folder imagenet/val "):
        check_data(cfg, "train")
    (tmp_path / "imagenet" / "val").mkdir()
    check_data(cfg, "train")


def test_cifar_fetches_itself_unless_told_not_to():
    check_data(classification(type="CIFAR10", data_root="data/cifar10", split="train"), "train")
    cfg = classification(type="CIFAR10", data_root="data/cifar10", split="train", download=False)
    with pytest.raises(MissingFileError, match="data/cifar10"):
        check_data(cfg, "train")


@pytest.mark.parametrize(
    "remote", [dict(root="s3://bucket/coco/"), dict(backend_args=dict(backend="petrel"))]
)
def test_other_backends_are_left_alone(remote):
    check_data(Config(dict(test_dataloader=dict(dataset=coco(**remote)))), "test")
