import json
import re
import shutil

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope

from mmhcgnet.datasets.checks.explain import (
    check_sample,
    explain_building_error,
    explain_data_error,
)
from mmhcgnet.datasets.checks.of_config import check_data, inspect_data, inspect_set_images
from mmhcgnet.errors import DataError, MissingFileError


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
        write_coco(folder, split)
    return folder


def write_coco(root, split="train", **changes):
    """Annotations of one object in each of two images, with some of their lists replaced."""
    content = dict(
        images=[dict(id=i, file_name=f"{i}.png", height=20, width=30) for i in (1, 2)],
        annotations=[
            dict(
                id=i,
                image_id=i,
                category_id=7,
                bbox=[2, 3, 9, 8],
                area=72,
                iscrowd=0,
                segmentation=[[2, 3, 11, 3, 11, 11]],
            )
            for i in (1, 2)
        ],
        categories=[dict(id=7, name="cat")],
    )
    content.update(changes)
    (root / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(content))
    for i in (1, 2):
        cv2.imwrite(str(root / f"{split}2017" / f"{i}.png"), np.zeros((20, 30, 3), np.uint8))
    return content


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
    place.unlink() if place.is_file() else shutil.rmtree(place)
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
    with pytest.raises(DataError, match="The image folder imagenet/val holds no folders"):
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


def cats(root="data", scope="mmdet", num_classes=1, **dataset):
    """A config of a detector that knows cats."""
    train = coco(root, metainfo=dict(classes=("cat",)), **dataset)
    return Config(
        dict(
            default_scope=scope,
            model=dict(roi_head=dict(bbox_head=dict(num_classes=num_classes))),
            train_dataloader=dict(dataset=train),
        )
    )


def test_good_annotations_pass(tmp_path):
    make_coco(tmp_path / "data")
    check_data(cats(), "train")


def test_the_start_of_a_run_reads_annotations(tmp_path):
    boxes = write_coco(make_coco(tmp_path / "data"))["annotations"]
    boxes[1]["bbox"] = [1, 2, float("inf"), 4]
    write_coco(tmp_path / "data", annotations=boxes)
    with pytest.raises(DataError, match=r"instances_train2017.json has an annotation \(id 2,"):
        check_data(cats(), "train")


def test_missing_images_are_found_at_the_start(tmp_path):
    (make_coco(tmp_path / "data") / "train2017" / "2.png").unlink()
    with pytest.raises(DataError, match="data/train2017/2.png does not exist"):
        check_data(cats(), "train")


def test_masks_are_asked_for_where_they_are_loaded(tmp_path):
    objects = write_coco(make_coco(tmp_path / "data"))["annotations"]
    del objects[0]["segmentation"]
    write_coco(tmp_path / "data", annotations=objects)
    check_data(cats(), "train")
    pipeline = [dict(type="LoadAnnotations", with_mask=True)]
    with pytest.raises(DataError, match="without a mask"):
        check_data(cats(pipeline=pipeline), "train")


def test_the_truth_of_an_evaluation_has_further_needs(tmp_path):
    objects = write_coco(make_coco(tmp_path / "data"))["annotations"]
    for entry in objects:
        del entry["iscrowd"]
    write_coco(tmp_path / "data", "val", annotations=objects)
    cfg = cats()
    cfg.val_dataloader = dict(dataset=coco("data", "val", metainfo=dict(classes=("cat",))))
    check_data(cfg, "train", "val")
    ann_file = "data/annotations/instances_val2017.json"
    cfg.val_evaluator = dict(type="CocoMetric", ann_file=ann_file)
    with pytest.raises(DataError, match="without 'iscrowd'"):
        check_data(cfg, "train", "val")


def test_classes_are_compared_with_the_heads(tmp_path):
    make_coco(tmp_path / "data")
    with pytest.raises(DataError) as info:
        check_data(cats(num_classes=80), "train")
    (option,) = re.findall(r"--cfg-options (\S+)\.", str(info.value))
    cfg = cats(num_classes=80)
    cfg.merge_from_dict({option.partition("=")[0]: int(option.partition("=")[2])})
    check_data(cfg, "train")


def test_harmless_faults_do_not_stop_a_run(tmp_path):
    objects = write_coco(make_coco(tmp_path / "data"))["annotations"]
    objects[1]["bbox"] = [5, 5, 0, 4]
    write_coco(tmp_path / "data", annotations=objects)
    check_data(cats(), "train")
    (found,) = inspect_data(cats(), "train")
    assert [finding.kind for finding in found.findings] == ["box without extent"]


def test_other_ranks_leave_the_files_to_the_first(tmp_path):
    (make_coco(tmp_path / "data") / "train2017" / "2.png").unlink()
    check_data(cats(), "train", files_only=True)
    with pytest.raises(DataError):
        check_data(cats(), "train")


def test_a_file_that_two_phases_read_is_inspected_once(tmp_path):
    make_coco(tmp_path / "data")
    cfg = cats()
    cfg.test_dataloader = cfg.val_dataloader = cfg.train_dataloader
    (found,) = inspect_data(cfg, "train", "val", "test")
    assert found.keys == [f"{phase}_dataloader.dataset" for phase in ("train", "val", "test")]


def class_folders(root, *names):
    for name in names:
        (root / name).mkdir(parents=True)
        cv2.imwrite(str(root / name / "1.png"), np.zeros((20, 30, 3), np.uint8))


def classifier(num_classes=2, **dataset):
    kind = dict(type="CustomDataset", data_root="data")
    return Config(
        dict(
            default_scope="mmpretrain",
            model=dict(head=dict(num_classes=num_classes)),
            train_dataloader=dict(dataset=dict(kind, data_prefix="train", **dataset)),
            val_dataloader=dict(dataset=dict(kind, data_prefix="val")),
        )
    )


def test_class_folders_are_compared_with_the_head_and_with_training(tmp_path):
    class_folders(tmp_path / "data" / "train", "cat", "dog")
    class_folders(tmp_path / "data" / "val", "cat", "dog")
    check_data(classifier(), "train", "val")
    with pytest.raises(DataError, match="model.head.num_classes=3"):
        check_data(classifier(num_classes=3), "train")
    # Labels are numbers in alphabetical order: zebra would be evaluated as dog.
    (tmp_path / "data" / "val" / "dog").rename(tmp_path / "data" / "val" / "zebra")
    with pytest.raises(DataError, match="data/val has other classes than data/train: dog, zebra"):
        check_data(classifier(), "val")


def test_listed_labels_are_compared_with_the_head(tmp_path):
    class_folders(tmp_path / "data" / "train", "cat", "dog")
    (tmp_path / "data" / "list.txt").write_text("cat/1.png 0\ndog/1.png 2\n")
    with pytest.raises(DataError, match=r"list.txt has in line 2 the label 2"):
        check_data(classifier(ann_file="list.txt"), "train")
    check_data(classifier(3, ann_file="list.txt"), "train")


def test_cifar_classes_are_compared_with_the_head():
    cfg = classification(type="CIFAR10", data_root="data", split="train")
    cfg.merge_from_dict(dict(default_scope="mmpretrain", model=dict(head=dict(num_classes=10))))
    check_data(cfg, "train")
    cfg.model.head.num_classes = 100
    with pytest.raises(DataError, match="has 10 classes"):
        check_data(cfg, "train")


@pytest.mark.parametrize("workers", [0, 2])
def test_all_images_of_a_set_are_opened(workers, tmp_path):
    class_folders(tmp_path / "data" / "train", "cat", "dog")
    (tmp_path / "data" / "train" / "dog" / "1.png").write_bytes(b"")
    told = []
    (found,) = inspect_data(classifier(), "train", thorough=True)
    inspect_set_images(found, workers, lambda *counts: told.append(counts))
    assert told == [(1, 2), (2, 2)]
    (finding,) = found.findings
    assert (finding.kind, finding.count) == ("empty image", 1)
    assert found.report()["findings"][0]["examples"] == finding.examples


class Failing:
    """A transform that fails."""

    def transform(self, results):
        raise IndexError("index 7 is out of bounds")

    def __call__(self, results):
        return self.transform(results)


def build(tmp_path, *pipeline, wrap=lambda dataset: dataset):
    root = make_coco(tmp_path / "data")
    cfg = coco(str(root), metainfo=dict(classes=("cat",)), pipeline=list(pipeline))
    with DefaultScope.overwrite_default_scope("mmdet"):
        return DATASETS.build(wrap(dict(cfg, _scope_="mmdet")))


def explain(dataset, index):
    with pytest.raises(Exception) as info:
        dataset[index]
    return str(explain_data_error(dataset, index, info.value))


LOAD = dict(type="LoadImageFromFile")


def test_a_broken_image_is_named(tmp_path):
    dataset = build(tmp_path, LOAD)
    (tmp_path / "data" / "train2017" / "2.png").write_bytes(b"not a picture")
    assert re.match(
        r"The image \S+/train2017/2\.png is no image that .*: put ", explain(dataset, 1)
    )


def test_a_broken_image_is_named_through_wrappers(tmp_path):
    dataset = build(tmp_path, LOAD, wrap=lambda d: dict(type="RepeatDataset", times=3, dataset=d))
    (tmp_path / "data" / "train2017" / "2.png").unlink()
    assert re.search(r"/train2017/2\.png does not exist", explain(dataset, 5))


def test_the_annotations_of_the_right_set_are_named(tmp_path):
    parts = [
        dict(
            coco(str(make_coco(tmp_path / name)), metainfo=dict(classes=("cat",))),
            pipeline=[LOAD, Failing()],
        )
        for name in ("first", "second")
    ]
    both = dict(type="ConcatDataset", datasets=parts)
    repeated = dict(type="RepeatDataset", times=2, dataset=both, _scope_="mmdet")
    with DefaultScope.overwrite_default_scope("mmdet"):
        dataset = DATASETS.build(repeated)
    for index, part in enumerate(["first", "first", "second", "second"] * 2):
        assert f"{part}/annotations/instances_train2017.json" in explain(dataset, index)


def test_a_failing_transform_is_named_with_the_image_and_the_place(tmp_path):
    sentence = explain(build(tmp_path, LOAD, Failing()), 0)
    for part in ("train2017/1.png", "Failing raised IndexError: index 7", "test_data_checks.py, l"):
        assert part in sentence


def test_a_missing_mask_is_named(tmp_path):
    objects = write_coco(make_coco(tmp_path / "data"))["annotations"]
    del objects[0]["segmentation"]
    write_coco(tmp_path / "data", annotations=objects)
    dataset = DATASETS.build(
        dict(coco(str(tmp_path / "data"), metainfo=dict(classes=("cat",))), _scope_="mmdet",
             pipeline=[LOAD, dict(type="LoadAnnotations", with_mask=True)])
    )  # fmt: skip
    assert "train2017/1.png, annotated in" in explain(dataset, 0)
    assert "has no segmentation" in explain(dataset, 0)


@pytest.mark.parametrize(
    "wrap", [lambda d: d, lambda d: dict(type="RepeatDataset", times=2, dataset=d)]
)
def test_an_image_of_another_size_is_refused_though_it_loads(tmp_path, wrap):
    boxes = dict(type="LoadAnnotations", with_bbox=True)
    resize = dict(type="Resize", scale=(60, 60), keep_ratio=True)
    dataset = build(tmp_path, LOAD, boxes, resize, dict(type="PackDetInputs"), wrap=wrap)
    last = len(dataset) - 1
    check_sample(dataset, last, dataset[last])
    cv2.imwrite(str(tmp_path / "data/train2017/2.png"), np.zeros((10, 40, 3), np.uint8))
    sample = dataset[last]
    with pytest.raises(DataError, match="2.png is 40 wide and 10 high where .* say 30 and 20: re"):
        check_sample(dataset, last, sample)
    # Taken instead of the one that was asked for, it is not judged by its annotations.
    check_sample(dataset, last - 1, sample)


def test_other_samples_pass():
    for sample in (3, dict(inputs=3), dict(data_samples=[]), dict(data_samples=object())):
        check_sample(None, 0, sample)


def test_samples_that_are_no_files_get_their_number():
    class Numbers:
        def __getitem__(self, index):
            raise KeyError("label")

    assert "The Numbers cannot load its sample 3: KeyError: 'label'" in explain(Numbers(), 3)


def test_an_explained_error_stays_as_it_is():
    error = DataError("So it is.")
    assert explain_data_error(None, 0, error) is error


def test_errors_of_building_a_data_set_name_its_file(tmp_path):
    root = make_coco(tmp_path / "data")
    path = root / "annotations" / "instances_train2017.json"
    path.write_text('{"images": []}')
    with pytest.raises(KeyError) as info:
        DATASETS.build(dict(coco(str(root)), _scope_="mmdet"))
    assert f"The CocoDataset of {path} cannot be built" in str(explain_building_error(info.value))
    write_coco(root, images=[])
    with pytest.raises(ValueError, match="need at least one array") as info:
        DATASETS.build(dict(coco(str(root)), _scope_="mmdet"))
    assert "no image is left" in str(explain_building_error(info.value))


def test_other_errors_are_not_explained():
    with pytest.raises(KeyError) as info:
        {}["colour"]
    assert explain_building_error(info.value) is None
