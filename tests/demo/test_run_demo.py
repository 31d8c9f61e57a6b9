"""The parts of the demo that need no training."""

import importlib.util
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from mmhcgnet.datasets import shapes

COCO = pytest.importorskip("pycocotools.coco").COCO
rle = pytest.importorskip("pycocotools.mask")


@pytest.fixture(scope="module")
def demo():
    path = Path(__file__).parents[2] / "demo" / "run_demo.py"
    spec = importlib.util.spec_from_file_location("run_demo", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_step_that_fails_ends_the_demo(demo, capfd):
    demo.run("1/2 Fine", "-c", "print('inside')")
    out = capfd.readouterr().out
    assert "=== 1/2 Fine\n$ python -c 'print('" in out and "inside\n=== done in 0.0 minutes" in out
    with pytest.raises(SystemExit, match="exit code 3; run the demo again to continue"):
        demo.run("2/2 Not fine", "-c", "raise SystemExit(3)")


def test_the_log_is_that_of_the_last_training(demo, tmp_path):
    for seconds, name in enumerate(["b/b.log", "a/a.log", "test/c/c.log"]):
        log = tmp_path / name
        log.parent.mkdir(parents=True)
        log.touch()
        os.utime(log, (seconds, seconds))
    assert demo.latest_log(tmp_path) == tmp_path / "a/a.log"


def test_every_image_is_saved_with_the_truth_beside_the_prediction(demo, tmp_path, monkeypatch):
    data = tmp_path / "data"
    shapes.write_detection(str(data), seed=0, images=1, val_images=3, size=64)
    monkeypatch.setattr(demo, "DATA", data)
    coco = COCO(data / "annotations" / "instances_val.json")
    labels = {cat: i for i, cat in enumerate(coco.getCatIds())}
    # A detector that finds the objects, the last of each image with a low score.
    predictions = []
    for image_id in coco.getImgIds():
        anns = coco.imgToAnns[image_id]
        boxes = torch.tensor([ann["bbox"] for ann in anns]).view(-1, 4)
        found = dict(
            bboxes=torch.cat([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], dim=1),
            labels=torch.tensor([labels[ann["category_id"]] for ann in anns]),
            scores=torch.tensor([*[0.9] * (len(anns) - 1), 0.3])[: len(anns)],
            masks=[coco.annToRLE(ann) for ann in anns],
        )
        predictions.append(dict(img_id=image_id, pred_instances=found))
    results = tmp_path / "predictions.pkl"
    results.write_bytes(pickle.dumps(predictions))

    drawn = []
    draw = demo.draw
    monkeypatch.setattr(demo, "draw", lambda *args: drawn.append(args[1]) or draw(*args))
    assert demo.save_pictures(results, tmp_path / "new" / "pictures", 0.5) == 3
    truths, founds = drawn[::2], drawn[1::2]
    assert sum(len(truth["boxes"]) for truth in truths) == len(coco.anns) > 3
    for image_id, truth, found in zip(coco.getImgIds(), truths, founds, strict=True):
        assert "scores" not in truth and len(found["scores"]) == len(truth["boxes"])
        np.testing.assert_allclose(found["boxes"], truth["boxes"], rtol=1e-5)
        assert list(found["labels"]) == truth["labels"]
        assert np.array_equal(found["masks"], truth["masks"])
        info = coco.imgs[image_id]
        picture = cv2.imread(str(tmp_path / "new/pictures" / f"{Path(info['file_name']).stem}.png"))
        assert picture.shape == (6 * info["height"], 12 * info["width"] + 6, 3)
    # Of three images, which are less than four, the first two are a row.
    overview = cv2.imread(str(tmp_path / "new/overview.png"))
    assert overview.shape == (6 * 64, 2 * (12 * 64 + 6) + 24, 3)


def test_an_image_is_judged_by_itself(demo, tmp_path):
    shapes.write_detection(str(tmp_path), seed=0, images=1, val_images=2, size=64)
    coco = COCO(tmp_path / "annotations" / "instances_val.json")
    (first, second) = coco.getImgIds()
    anns = coco.imgToAnns[first]
    boxes = torch.tensor([ann["bbox"] for ann in anns])
    boxes[:, 2:] += boxes[:, :2]
    labels = torch.tensor([coco.getCatIds().index(ann["category_id"]) for ann in anns])
    found = dict(bboxes=boxes, labels=labels, scores=torch.full((len(anns),), 0.5))
    assert demo.image_ap(coco, dict(img_id=first, pred_instances=found)) == pytest.approx(1)
    moved = dict(found, bboxes=boxes + 40)
    assert demo.image_ap(coco, dict(img_id=first, pred_instances=moved)) == 0
    nothing = {name: value[:0] for name, value in found.items()}
    assert demo.image_ap(coco, dict(img_id=second, pred_instances=nothing)) == 0


def test_the_images_shown_are_those_around_the_upper_quartile(demo):
    aps = {image: (image * 7 % 100) / 100 for image in range(100)}  # each AP once
    chosen = demo.choose(aps)
    assert [aps[image] for image in chosen] == [0.76, 0.75, 0.74, 0.73]
    assert demo.choose({1: 0.5, 2: 0.5, 3: 0.9}) == [3, 1, 2]


def test_images_of_any_sizes_stand_beside_each_other(demo):
    images = [np.full((height, width, 3), 7, np.uint8) for height, width in ((4, 5), (6, 3))]
    both = demo.beside(*images, gap=2)
    assert both.shape == (6, 10, 3)
    assert (both[:4, :5] == 7).all() and (both[:, 7:] == 7).all()
    assert (both[4:, :5] == 255).all() and (both[:, 5:7] == 255).all()
