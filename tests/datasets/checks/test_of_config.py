import json
import re
import shutil

import cv2
import numpy as np
import pytest
from mmdet.datasets import CocoDataset
from mmengine.config import Config
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.datasets import CustomDataset
from PIL import Image

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
    with pytest.raises(MissingFileError, match=r"set val_evaluator\.1\.ann_file=PATH"):
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


LMDB = [dict(type="LoadImageFromFile", backend_args=dict(backend="lmdb", db_path="a.lmdb"))]


@DATASETS.register_module()
class NumberedImages(CocoDataset):
    """Images whose names in the file lack the suffix."""

    def parse_data_info(self, raw_data_info):
        return super().parse_data_info(raw_data_info)


@pytest.mark.parametrize("thorough", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        dict(data_prefix=dict(img="http://host/train/")),
        dict(data_prefix=dict(img="s3://bucket/train/")),
        dict(pipeline=LMDB),
        dict(pipeline=[dict(type="LoadImageFromFile", file_client_args=dict(backend="petrel"))]),
        dict(pipeline=[dict(type="ReadStack"), dict(type="LoadAnnotations")]),
        dict(type="mmengine.NumberedImages"),
    ],
)
def test_images_that_are_no_plain_files_need_not_be_here(tmp_path, options, thorough):
    shutil.rmtree(make_coco(tmp_path / "data") / "train2017")
    with pytest.raises(MissingFileError, match="image folder data/train2017/"):
        check_data(cats(), "train")
    cfg = cats()
    cfg.train_dataloader.dataset.update(options)
    check_data(cfg, "train")
    (tmp_path / "data" / "train2017").mkdir()
    (found,) = inspect_data(cfg, "train", thorough=thorough)
    inspect_set_images(found)
    assert found.findings == [] and found.images == {}
    # Their annotations are inspected nonetheless.
    write_coco(tmp_path / "data", categories=[dict(id=7, name="dog")])
    with pytest.raises(DataError, match="has no category 'cat'"):
        check_data(cfg, "train")


def test_file_names_may_be_urls(tmp_path):
    told = write_coco(make_coco(tmp_path / "data"))
    names = ["http://host/1.jpg", str(tmp_path / "data/train2017/2.png")]
    images = [dict(i, file_name=name) for i, name in zip(told["images"], names, strict=True)]
    write_coco(tmp_path / "data", images=images)
    cfg = cats(root="")
    ann_file = "data/annotations/instances_train2017.json"
    cfg.train_dataloader.dataset.update(ann_file=ann_file, data_prefix=dict(img=""))
    (found,) = inspect_data(cfg, "train")
    assert found.findings == [] and list(found.images) == names[1:]


def test_a_root_that_nothing_lies_in_need_not_exist(tmp_path):
    root = make_coco(tmp_path / "data")
    cfg = cats(root="nowhere")
    ann_file = str(root / "annotations/instances_train2017.json")
    cfg.train_dataloader.dataset.update(ann_file=ann_file, data_prefix=dict(img="s3://bucket/"))
    check_data(cfg, "train")


def test_images_that_another_transform_loads_are_opened_where_they_are(tmp_path):
    (make_coco(tmp_path / "data") / "train2017" / "2.png").unlink()
    cfg = cats(pipeline=[dict(type="ReadStack")])
    (found,) = inspect_data(cfg, "train", thorough=True)
    assert list(found.images) == ["data/train2017/1.png"]


@pytest.mark.parametrize("prefix", ["http://host/train", dict(img_path="s3://bucket/train")])
@pytest.mark.parametrize("ann_file", ["list.txt", "http://host/list.txt", ""])
def test_lists_and_folders_may_be_elsewhere(tmp_path, prefix, ann_file):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "list.txt").write_text("cat/1.png 0\ndog/1.png 1\n")
    cfg = classifier(ann_file=ann_file)
    cfg.train_dataloader.dataset.data_prefix = prefix
    check_data(cfg, "train")


def test_listed_images_may_be_in_a_backend(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "list.txt").write_text("cat/1.png 0\ndog/1.png 1\n")
    check_data(classifier(ann_file="list.txt", pipeline=LMDB), "train")
    # Class folders are searched on the disk, whatever reads the images.
    with pytest.raises(MissingFileError, match="image folder data/train "):
        check_data(classifier(pipeline=LMDB), "train")
    class_folders(tmp_path / "data" / "train", "cat", "dog")
    check_data(classifier(pipeline=LMDB), "train")


@DATASETS.register_module()
class FlatFolder(CustomDataset):
    """Images whose names begin with those of their classes."""

    def _find_samples(self):
        return []


def test_a_data_set_may_search_folders_in_its_own_way(tmp_path):
    (tmp_path / "data" / "train").mkdir(parents=True)
    cfg = classifier()
    with pytest.raises(DataError, match="holds no folders of classes"):
        check_data(cfg, "train")
    cfg.train_dataloader.dataset.type = "mmengine.FlatFolder"
    check_data(cfg, "train")


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
    (option,) = re.findall(r"or set (\S+)\.", str(info.value))
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
    with pytest.raises(DataError, match=r"list.txt has the label 2 in line 2"):
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
        r"The image \S+/train2017/2\.png cannot be read as an image .*: put ", explain(dataset, 1)
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
    for part in ("train2017/1.png", "Failing raised IndexError: index 7", "test_of_config.py, l"):
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
    with pytest.raises(DataError, match="2.png is 40 wide and 10 high, but .* say 30 and 20: re"):
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
    assert "it has no image left" in str(explain_building_error(info.value))


def test_other_errors_are_not_explained():
    with pytest.raises(KeyError) as info:
        {}["colour"]
    assert explain_building_error(info.value) is None


# What data sets take, and what they are compared with


def semi_supervised(*transforms):
    return [dict(type="LoadImageFromFile"), *(dict(type=name) for name in transforms)]


@pytest.mark.parametrize(
    "pipeline",
    [
        semi_supervised("LoadEmptyAnnotations"),
        semi_supervised("LoadEmptyAnnotations", "Resize"),
        [
            dict(type="LoadImageFromFile"),
            dict(type="MultiBranch", teacher=[dict(type="Resize")]),
        ],
    ],
)
def test_sets_without_labels_are_trained_on_where_no_labels_are_loaded(tmp_path, pipeline):
    make_coco(tmp_path / "data")
    write_coco(tmp_path / "data", annotations=[])
    check_data(cats(pipeline=pipeline), "train")
    with pytest.raises(DataError, match="holds no annotation"):
        check_data(cats(pipeline=[dict(type="LoadAnnotations")]), "train")


def labelled_and(other):
    """A config that trains on the file of cats and on another data set."""
    cfg = cats()
    sets = [cfg.train_dataloader.dataset, other]
    cfg.train_dataloader.dataset = dict(type="ConcatDataset", datasets=sets)
    return cfg


@pytest.mark.parametrize(
    "flags", [None, dict(iscrowd=1), dict(ignore=1), dict(bbox=[2, 3, 0, 8])], ids=str
)
def test_a_training_file_may_hold_negatives_alone(tmp_path, flags):
    root = make_coco(tmp_path / "data")
    told = write_coco(root)["annotations"]
    nothing = [dict(entry, **flags) for entry in told] if flags else []
    write_coco(root, "val", annotations=nothing)
    negatives = coco("data", "val", metainfo=dict(classes=("cat",)))
    cfg = labelled_and(negatives)
    check_data(cfg, "train")
    found = list(inspect_data(cfg, "train"))
    assert found[0].findings == [] and found[1].findings and len(found[1].images) == 2
    # None of both has objects, or it is all that there is.
    write_coco(root, annotations=nothing)
    with pytest.raises(DataError, match="holds no annotation"):
        check_data(cfg, "train")
    cfg.train_dataloader.dataset = negatives
    with pytest.raises(DataError, match="holds no annotation"):
        check_data(cfg, "train")


def test_negatives_need_no_categories_and_no_filter(tmp_path):
    root = make_coco(tmp_path / "data")
    write_coco(root, "val", annotations=[], categories=[])
    negatives = coco("data", "val", metainfo=dict(classes=("cat",)))
    check_data(labelled_and(negatives), "train")
    with pytest.raises(DataError, match="takes none of the images"):
        check_data(labelled_and(dict(negatives, filter_cfg=dict(filter_empty_gt=True))), "train")


@pytest.mark.parametrize("other", [dict(type="XMLDataset"), coco("s3://bucket/coco")])
def test_objects_may_be_in_data_that_is_not_inspected(tmp_path, other):
    write_coco(make_coco(tmp_path / "data"), annotations=[])
    check_data(labelled_and(other), "train")


def test_negatives_alone_are_not_evaluated(tmp_path):
    root = make_coco(tmp_path / "data")
    write_coco(root, "val", annotations=[])
    cfg = labelled_and(coco("data", "val", metainfo=dict(classes=("cat",))))
    cfg.val_dataloader = dict(dataset=coco("data", "val", metainfo=dict(classes=("cat",))))
    with pytest.raises(DataError, match="holds no annotation"):
        check_data(cfg, "train", "val")


@pytest.mark.parametrize(
    "options",
    [
        dict(filter_cfg=dict(filter_empty_gt=True)),
        dict(filter_cfg=dict(min_size=11)),
        dict(indices=2),
        dict(indices=[0, 1]),
        dict(indices=[0, -2]),
    ],
)
def test_images_that_a_data_set_does_not_take_need_not_exist(tmp_path, options):
    told = write_coco(make_coco(tmp_path / "data"))
    absent = dict(id=3, file_name="gone.png", height=10, width=30)
    write_coco(tmp_path / "data", images=[*told["images"], absent])
    check_data(cats(**options), "train")
    for others in (dict(), dict(options, indices=-1, filter_cfg=None)):
        with pytest.raises(DataError, match="gone.png does not exist"):
            check_data(cats(**others), "train")


def test_a_data_set_that_takes_no_image_is_refused(tmp_path):
    make_coco(tmp_path / "data")
    for options in (dict(filter_cfg=dict(min_size=99)), dict(indices=0)):
        with pytest.raises(DataError, match="takes none of the images"):
            check_data(cats(**options), "train")
    check_data(cats(test_mode=True, filter_cfg=dict(min_size=99)), "train")


def panoptic(**model):
    things = ("cat", "dog")
    metainfo = dict(classes=(*things, "sky"), thing_classes=things, stuff_classes=("sky",))
    prefix = dict(img="train2017/", seg="segments/")
    dataset = coco("data", metainfo=metainfo)
    dataset.update(type="CocoPanopticDataset", data_prefix=prefix)
    return Config(dict(default_scope="mmdet", model=model, train_dataloader=dict(dataset=dataset)))


def make_panoptic(folder):
    make_coco(folder)
    (folder / "segments").mkdir()
    names = ("cat", "dog", "sky")
    segments = [dict(id=i, category_id=i, bbox=[2, 3, 9, 8], area=72, iscrowd=0) for i in (1, 2, 3)]
    write_coco(
        folder,
        categories=[dict(id=i, name=n, isthing=int(i < 3)) for i, n in enumerate(names, 1)],
        annotations=[
            dict(image_id=i, file_name=f"{i}.png", segments_info=segments) for i in (1, 2)
        ],
    )
    for i in (1, 2):
        cv2.imwrite(str(folder / "segments" / f"{i}.png"), np.zeros((20, 30, 3), np.uint8))


@pytest.mark.parametrize(
    "good, bad, option",
    [
        (
            dict(roi_head=dict(bbox_head=dict(num_classes=2))),
            dict(roi_head=dict(bbox_head=dict(num_classes=3))),
            "model.roi_head.bbox_head.num_classes=2",
        ),
        (
            dict(semantic_head=dict(num_things_classes=2, num_stuff_classes=1)),
            dict(semantic_head=dict(num_things_classes=2, num_stuff_classes=53)),
            "model.semantic_head.num_stuff_classes=1",
        ),
        (
            dict(panoptic_head=dict(num_things_classes=2, num_stuff_classes=1)),
            dict(panoptic_head=dict(num_things_classes=80, num_stuff_classes=1)),
            "model.panoptic_head.num_things_classes=2",
        ),
    ],
)
def test_panoptic_heads_know_things_and_stuff(tmp_path, good, bad, option):
    make_panoptic(tmp_path / "data")
    check_data(panoptic(**good), "train")
    with pytest.raises(DataError, match=option):
        check_data(panoptic(**bad), "train")
    (tmp_path / "data/segments/2.png").unlink()
    with pytest.raises(DataError, match="segments/2.png does not exist"):
        check_data(panoptic(**good), "train")


@pytest.mark.parametrize(
    "nest",
    [
        lambda model: model,
        lambda model: dict(module=model),
        lambda model: dict(detector=model),
        lambda model: dict(teacher=dict(model=[model])),
    ],
)
def test_heads_are_found_in_whatever_the_model_is_nested(tmp_path, nest):
    make_coco(tmp_path / "data")
    cfg = cats()
    mask_head = dict(num_classes=80, class_agnostic=True)
    cfg.model = nest(dict(roi_head=dict(bbox_head=dict(num_classes=1), mask_head=mask_head)))
    check_data(cfg, "train")  # a mask head that is the same for all classes may say what it likes
    cfg.model = nest(dict(roi_head=dict(bbox_head=[dict(num_classes=1), dict(num_classes=80)])))
    with pytest.raises(DataError, match=r"roi_head.bbox_head.1.num_classes=1\b"):
        check_data(cfg, "train")


@pytest.mark.parametrize("nest", [lambda model: model, lambda model: dict(detector=model)])
def test_heads_of_models_that_read_class_names_have_any_number(tmp_path, nest):
    make_coco(tmp_path / "data")
    cfg = cats()
    grounding = dict(language_model=dict(type="BertModel"), bbox_head=dict(num_classes=256))
    cfg.model = nest(grounding)
    check_data(cfg, "train")
    cfg.model = dict(teacher=nest(grounding), student=dict(bbox_head=dict(num_classes=256)))
    with pytest.raises(DataError, match=r"but the config has model.student.bbox_head.num_classes"):
        check_data(cfg, "train")


def tested(evaluator="data/annotations/instances_val2017.json", *sets, **options):
    cfg = cats()
    sets = sets or ("val",)
    sets = [coco("data", split, metainfo=dict(classes=("cat",)), **options) for split in sets]
    together = dict(type="ConcatDataset", datasets=sets)
    cfg.test_dataloader = dict(dataset=sets[0] if len(sets) == 1 else together)
    cfg.test_evaluator = dict(type="CocoMetric", ann_file=evaluator)
    return cfg


def test_the_evaluator_has_to_know_the_tested_images(tmp_path):
    root = make_coco(tmp_path / "data")
    told = write_coco(root, "val")
    other = "data/annotations/instances_train2017.json"
    check_data(tested(), "test")
    check_data(tested(other), "test")  # the same objects in images of the same names and sizes

    def write(part, **changes):
        write_coco(root, **{part: [dict(entry, **changes) for entry in told[part]]})

    for part, changes, message in (
        ("images", dict(width=31), "under the image id 1 1.png of 31x20 pixels"),
        ("annotations", dict(bbox=[1, 1, 5, 5]), "has none of the objects"),
    ):
        write(part, **changes)
        with pytest.raises(DataError, match=f"{message}.*test_evaluator.ann_file"):
            check_data(tested(other), "test")
    write_coco(root, images=[dict(told["images"][0]), dict(told["images"][1], id=7)])
    with pytest.raises(DataError, match="has no image 2"):
        check_data(tested(other), "test")
    check_data(tested(other, indices=1), "test")
    # Folders may be part of the name in one file and of the config in the other.
    write_coco(root, images=[dict(i, file_name=f"val2017/{i['id']}.png") for i in told["images"]])
    check_data(tested(other), "test")


@pytest.mark.parametrize("split", ["train", "val"])  # the evaluator's file, the data set's
@pytest.mark.parametrize("key", ["id", "file_name", "height", "width"])
def test_files_that_lack_what_is_compared_are_told(tmp_path, split, key):
    root = make_coco(tmp_path / "data")
    images = write_coco(root, "val")["images"]
    del images[1][key]
    write_coco(root, split, images=images)
    with pytest.raises(DataError, match=f"instances_{split}2017.json has an image .* '{key}'"):
        check_data(tested("data/annotations/instances_train2017.json"), "test")


@pytest.mark.parametrize("filters", [None, dict(filter_empty_gt=True)])
def test_annotations_of_an_image_id_that_is_a_list_are_told(tmp_path, filters):
    root = make_coco(tmp_path / "data")
    objects = write_coco(root, "val")["annotations"]
    objects[1]["image_id"] = [2]
    write_coco(root, "val", annotations=objects)
    cfg = tested("data/annotations/instances_train2017.json", filter_cfg=filters)
    with pytest.raises(DataError, match=r"whose image_id is \[2\]"):
        check_data(cfg, "test")


def test_images_of_several_tested_sets_need_different_ids(tmp_path):
    make_coco(tmp_path / "data")
    with pytest.raises(DataError, match="The image id 1 is 1.png in .* and 1.png in"):
        check_data(tested("data/annotations/instances_val2017.json", "train", "val"), "test")
    cfg = tested("data/annotations/instances_val2017.json", "train", "val")
    metric = dict(type="CocoMetric")
    files = [f"data/annotations/instances_{split}2017.json" for split in ("train", "val")]
    cfg.test_evaluator = dict(
        type="MultiDatasetsEvaluator",
        metrics=[dict(metric, ann_file=file) for file in files],
        dataset_prefixes=["a", "b"],
    )
    check_data(cfg, "test")


@pytest.mark.parametrize("order", [("b", "a", "c"), ("c", "b", "a"), ("b", "c", "a")])
def test_files_that_order_their_categories_differently_are_refused(tmp_path, order):
    root = make_coco(tmp_path / "data")
    names = ("a", "b", "c")

    def write(split, order):
        categories = [dict(id=i, name=name) for i, name in enumerate(order, 7)]
        write_coco(root, split, categories=categories)

    def config(classes):
        cfg = cats(num_classes=3)
        cfg.train_dataloader.dataset.metainfo.classes = names
        cfg.val_dataloader = dict(dataset=coco("data", "val", metainfo=dict(classes=classes)))
        return cfg

    write("train", names)
    write("val", order)
    for classes in (names, order):  # the second one was once advised
        with pytest.raises(DataError, match=r"reorder the categories in this file as \('a', 'b"):
            check_data(config(classes), "train", "val")
    with pytest.raises(DataError, match="in another order"):
        cfg = config(order)
        cfg.test_dataloader = cfg.val_dataloader
        check_data(cfg, "test")
    # Where a checkpoint says what it was trained on, predictions are mapped by name.
    check_data(cfg, "test", as_in_training=False)
    write("val", names)
    check_data(config(names), "train", "val")


def test_lists_name_classes_in_the_order_of_the_training(tmp_path):
    class_folders(tmp_path / "data" / "train", "cat", "dog")
    class_folders(tmp_path / "data" / "val", "cat", "dog")
    (tmp_path / "data" / "list.txt").write_text("cat/1.png 0\ndog/1.png 1\n")
    for classes in (["dog", "cat"], ["rat", "cat"]):
        cfg = classifier(ann_file="list.txt", classes=["cat", "dog"])
        cfg.val_dataloader.dataset.update(ann_file="list.txt", classes=classes)
        with pytest.raises(DataError, match="under the number [01], and training has it under"):
            check_data(cfg, "train", "val")
    cfg.val_dataloader.dataset.classes = ["cat", "dog"]
    check_data(cfg, "train", "val")


@pytest.mark.parametrize("extensions", [(".PNG",), (".png", ".JPG"), [".Png"]])
def test_extensions_may_be_in_capitals(tmp_path, extensions):
    class_folders(tmp_path / "data" / "train", "cat", "dog")
    check_data(classifier(extensions=extensions), "train")


@pytest.mark.parametrize("classes", ["cat", 3, dict(cat=1)])
def test_classes_that_are_no_list_are_told(tmp_path, classes):
    make_coco(tmp_path / "data")
    cfg = cats()
    cfg.train_dataloader.dataset.metainfo.classes = classes
    with pytest.raises(DataError, match="not a list"):
        check_data(cfg, "train")


@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_an_image_that_was_loaded_is_not_blamed(tmp_path, suffix, monkeypatch):
    dataset = build(tmp_path, LOAD, Failing())
    path = tmp_path / "data/train2017/2.png"
    Image.effect_noise((30, 20), 60).save(tmp_path / f"other.{suffix}")
    path.write_bytes((tmp_path / f"other.{suffix}").read_bytes())
    with monkeypatch.context() as patch:
        # Whatever else a check may have against it.
        patch.setattr("mmhcgnet.datasets.checks.explain.inspect_image", None)
        assert "2.png, annotated in" in explain(dataset, 1)
        assert "Failing raised IndexError" in explain(dataset, 1)
    path.write_bytes(b"not a picture")
    assert "cannot be read as an image" in explain(dataset, 1)
