"""COCO metrics of odd files, which pycocotools alone counts wrongly."""

import json

import numpy as np
import pytest
import torch
from mmdet.evaluation.metrics import CocoMetric
from mmengine.evaluator import Evaluator

from mmhcgnet.engine.runner.evaluation import guard_evaluator

CLASSES = ("cat", "dog", "eel")


def truth(ids=(1, 2, 3), first=1, images=4):
    """Three objects in each image, one of each class, at places that depend on the image."""
    annotations = [
        dict(
            id=first + 3 * image + label,
            image_id=image,
            category_id=ids[label],
            bbox=[10 * label + image, 5, 8, 9 + label],
            area=70,
            iscrowd=0,
        )
        for image in range(images)
        for label in range(3)
    ]
    return dict(
        images=[dict(id=i, file_name=f"{i}.png", height=64, width=64) for i in range(images)],
        annotations=annotations,
        categories=[dict(id=id_, name=name) for id_, name in zip(ids, CLASSES, strict=True)],
    )


def write(path, content):
    path.write_text(json.dumps(content))
    return str(path)


def predictions(images, shift=(0, 0, 0)):
    """Boxes of the truth, those of each class shifted by some pixels."""
    for image in images:
        boxes = [
            [10 * label + image + shift[label], 5, 10 * label + image + shift[label] + 8]
            + [14 + label]
            for label in range(3)
        ]
        yield dict(
            img_id=image,
            ori_shape=(64, 64),
            pred_instances=dict(
                bboxes=torch.tensor(boxes).float(),
                scores=torch.tensor([0.9, 0.8, 0.7]),
                labels=torch.arange(3),
            ),
        )


def evaluate(path, images=range(4), shift=(0, 0, 0), guarded=True, **kwargs):
    metric = CocoMetric(ann_file=path, metric="bbox", classwise=True, **kwargs)
    metric.dataset_meta = dict(classes=CLASSES)
    evaluator = Evaluator([metric])
    if guarded:
        guard_evaluator(evaluator)
        guard_evaluator(evaluator)  # as before every validation
    samples = list(predictions(images, shift))
    metric.process({}, samples)
    return evaluator.evaluate(len(samples))


@pytest.mark.parametrize("shift", [(0, 0, 0), (1, 2, 3), (0, 4, 9)])
@pytest.mark.parametrize("ids", [(1, 2, 3), (2, 7, 90)])
def test_numbers_of_sound_files_stay_as_they_are(tmp_path, ids, shift):
    path = write(tmp_path / "a.json", truth(ids))
    plain = evaluate(path, shift=shift, guarded=False)
    assert len(plain) == 9
    np.testing.assert_equal(evaluate(path, shift=shift), plain)


@pytest.mark.parametrize("first", [0, -2, -5])
def test_annotation_ids_below_1_count(tmp_path, first):
    path = write(tmp_path / "a.json", truth(first=first))
    assert evaluate(path)["coco/bbox_mAP"] == 1
    if first == 0:
        assert evaluate(path, guarded=False)["coco/bbox_mAP"] < 1  # or this is needed no more


@pytest.mark.parametrize("part", ["annotations", "categories"])
def test_ids_may_be_strings(tmp_path, part):
    content = truth()
    for entry in content[part]:
        entry["id"] = f"n{entry['id']}"
    if part == "categories":
        for entry in content["annotations"]:
            entry["category_id"] = f"n{entry['category_id']}"
    path = write(tmp_path / "a.json", content)
    metrics = evaluate(path, shift=(0, 3, 5))
    np.testing.assert_equal(metrics, evaluate(write(tmp_path / "b.json", truth()), shift=(0, 3, 5)))


@pytest.mark.parametrize("ids", [(3, 2, 1), (2, 3, 1), (7, 1, 4)])
def test_rows_of_the_table_are_of_their_classes_whatever_the_order_of_ids(tmp_path, ids):
    shift = (0, 2, 20)
    expected = evaluate(write(tmp_path / "sorted.json", truth()), shift=shift)
    assert expected["coco/cat_precision"] > expected["coco/dog_precision"] > 0
    path = write(tmp_path / "a.json", truth(ids))
    np.testing.assert_equal(evaluate(path, shift=shift), expected)
    # What is written keeps the ids of the file.
    evaluate(path, shift=shift, outfile_prefix=str(tmp_path / "out"))
    written = json.loads((tmp_path / "out.bbox.json").read_text())
    assert [entry["category_id"] for entry in written[:3]] == list(ids)


@pytest.mark.parametrize("images", [range(2), range(3), [3, 1]])
def test_objects_of_images_that_are_not_tested_do_not_count(tmp_path, images):
    path = write(tmp_path / "a.json", truth())
    assert evaluate(path, images=images)["coco/bbox_mAP"] == 1
    assert evaluate(path, images=images, guarded=False)["coco/bbox_mAP"] < 1


def test_an_image_that_is_tested_twice_counts_once(tmp_path):
    path = write(tmp_path / "a.json", truth())
    twice = evaluate(path, images=[0, 1, 2, 3, 0, 1], shift=(0, 2, 9))
    np.testing.assert_equal(twice, evaluate(path, shift=(0, 2, 9)))


def test_what_is_sent_to_a_server_is_left_alone(tmp_path):
    path = write(tmp_path / "a.json", truth((3, 2, 1)))
    out = str(tmp_path / "out")
    assert evaluate(path, format_only=True, outfile_prefix=out) == {}
    written = json.loads((tmp_path / "out.bbox.json").read_text())
    assert [entry["category_id"] for entry in written[:3]] == [3, 2, 1]


def test_other_metrics_are_left_alone():
    class Other:
        def compute_metrics(self, results):
            return dict(results=results)

    evaluator = Evaluator([CocoMetric()])
    evaluator.metrics.append(other := Other())
    guard_evaluator(evaluator)
    assert other.compute_metrics([1]) == dict(results=[1])
    assert "compute_metrics" not in vars(evaluator.metrics[0])  # its truth is the data set's own
