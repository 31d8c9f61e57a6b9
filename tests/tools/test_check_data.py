"""tools/misc/check_data.py, run in this process, as its imports take seconds."""

import json
from pathlib import Path

import pytest

from mmhcgnet.datasets.shapes import write_classification, write_detection

ROOT = Path(__file__).parents[2]
DETECTOR = ROOT / "configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
CLASSIFIER = ROOT / "configs/hcgnet/hcgnet-b_1xb32-cosine-4e_shapes.py"


@pytest.fixture
def run(start, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def run(*args):
        result = start("misc/check_data.py", *args, "--workers", 0)
        return result.code, result

    return run


def make(write, out):
    write(out, seed=0, images=6, val_images=6, size=64)
    return out


def test_good_data(run, tmp_path):
    make(write_detection, tmp_path / "data/shapes")
    code, printed = run(DETECTOR)
    assert code == 0
    assert "instances_train.json: 6 images (train_dataloader.dataset)" in printed.out
    # What validation and testing share is opened once.
    assert "(val_dataloader.dataset, val_evaluator, test_dataloader.dataset," in printed.out
    assert printed.err.splitlines() == ["  6 of 6 images"] * 2
    assert printed.out.endswith("kinds of faults to fix: 0\n")


def test_faults_are_counted_with_examples_and_the_annotations_named(run, tmp_path):
    shapes = make(write_detection, tmp_path / "data/shapes")
    for name in ("000001.png", "000002.png"):
        (shapes / "train" / name).write_bytes(b"")
    path = shapes / "annotations/instances_train.json"
    content = json.loads(path.read_text())
    content["annotations"][0]["bbox"] = [1, 1, 0, 4]
    path.write_text(json.dumps(content))

    code, printed = run(DETECTOR, "--json", "found/faults.json")
    assert code == 1
    assert "2 x empty image: put a good image there" in printed.out
    assert "data/shapes/train/000001.png is empty (0 bytes)" in printed.out
    assert "harmless       1 x box without extent" in printed.out
    assert "kinds of faults to fix: 1" in printed.out
    train, val = json.loads((tmp_path / "found/faults.json").read_text())
    assert (train["images"], train["place"]) == (6, "data/shapes/annotations/instances_train.json")
    counts = {found["kind"]: (found["count"], found["harmless"]) for found in train["findings"]}
    assert counts["empty image"] == (2, False) and counts["box without extent"] == (1, True)
    assert not any(not found["harmless"] for found in val["findings"])

    # What is harmless counts if asked, and images are opened unless told not to.
    assert run(DETECTOR, "--no-images")[0] == 0
    assert run(DETECTOR, "--no-images", "--strict")[0] == 1
    assert run(DETECTOR, "--phases", "val", "test")[0] == 0


def test_class_folders(run, tmp_path):
    shapes = make(write_classification, tmp_path / "data/shapes/classification")
    assert run(CLASSIFIER)[0] == 0
    (shapes / "val/star/00000.png").write_text("no image")
    code, printed = run(CLASSIFIER)
    assert code == 1 and "1 x undecodable image" in printed.out
    code, printed = run(CLASSIFIER, "--no-images", "--cfg-options", "model.head.num_classes=7")
    assert code == 1 and "model.head.num_classes=7" in printed.out


@pytest.mark.parametrize(
    "args, part",
    [
        ([DETECTOR], "python tools/dataset_converters/make_shapes.py"),
        ([DETECTOR, "--no-images", "--cfg-options", "train_dataloader=None",
          "val_dataloader=None", "test_dataloader=None"], "has no train_dataloader"),
        (["absent.py"], "absent.py does not exist"),
    ],
)  # fmt: skip
def test_what_cannot_be_checked_is_told(run, args, part):
    code, printed = run(*args)
    assert code == 2 and part in printed.err
