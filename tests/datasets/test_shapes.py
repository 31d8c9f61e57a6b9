"""The built-in data set: what it promises, measured on what it draws and writes."""

import hashlib
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from mmhcgnet.datasets import shapes

SCRIPT = Path(__file__).parents[2] / "tools" / "dataset_converters" / "make_shapes.py"
SIZE = 128


def load_script():
    spec = importlib.util.spec_from_file_location("make_shapes", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def digests(folder):
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def scenes():
    return [shapes.draw_scene(0, "train", index, SIZE) for index in range(120)]


@pytest.fixture(scope="module")
def objects(scenes):
    return [(image, item) for image, items in scenes for item in items]


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "shapes"
    assert shapes.write_detection(out, seed=3, images=40, val_images=20, size=SIZE)
    return out


def half_split_accuracy(features, labels):
    """Accuracy of the nearest class mean, fitted on even rows and scored on odd ones."""
    features = (features - features.mean(axis=0)) / features.std(axis=0)
    train, test = features[::2], features[1::2]
    means = np.stack([train[labels[::2] == c].mean(axis=0) for c in range(len(shapes.CATEGORIES))])
    guess = np.linalg.norm(test[:, None] - means, axis=2).argmin(axis=1)
    return float((guess == labels[1::2]).mean())


def between_class_spread(features, labels):
    """One-way F statistic of every feature: about 1 where the category has no influence."""
    groups = [features[labels == c] for c in range(len(shapes.CATEGORIES))]
    between = sum(len(g) * (g.mean(axis=0) - features.mean(axis=0)) ** 2 for g in groups)
    within = sum(((g - g.mean(axis=0)) ** 2).sum(axis=0) for g in groups)
    freedom = len(groups) - 1
    return (between / freedom) / (within / (len(features) - freedom - 1))


# What is drawn


def test_categories():
    assert len(shapes.CATEGORIES) >= 5
    assert list(shapes.CATEGORIES) == sorted(shapes.CATEGORIES)
    assert shapes.METAINFO["classes"] == shapes.CATEGORIES
    assert len(set(shapes.METAINFO["palette"])) == len(shapes.CATEGORIES)


def test_every_category_is_common(objects):
    counts = np.bincount([item.label for _, item in objects])
    assert len(counts) == len(shapes.CATEGORIES)
    assert counts.min() > 0.6 * counts.mean()


def test_images(scenes):
    ratios = []
    for image, items in scenes:
        height, width, channels = image.shape
        assert image.dtype == np.uint8 and channels == 3
        assert max(height, width) == SIZE
        assert len(items) <= shapes.MAX_OBJECTS
        ratios.append(width / height)
    ratios = np.array(ratios)
    assert 0.74 < ratios.min() < 0.9 and 1.1 < ratios.max() < 1.35
    assert np.mean(ratios != 1) == 0.25
    assert np.mean([not items for _, items in scenes]) == 0.05
    assert {len(items) for _, items in scenes} == set(range(shapes.MAX_OBJECTS + 1))


def test_backgrounds_are_textured(scenes):
    # Sensor noise alone stays below 8 grey levels.
    spread = [image[~np.any([o.full for o in items], axis=0)].std() for image, items in scenes[1:9]]
    assert np.mean(spread) > 12


def test_masks_are_the_visible_part(scenes):
    for image, items in scenes:
        for depth, item in enumerate(items):
            assert item.full.shape == item.visible.shape == image.shape[:2]
            front = np.zeros_like(item.full)
            for other in items[depth + 1 :]:
                front |= other.full
            np.testing.assert_array_equal(item.visible, item.full & ~front)
            hidden = (item.full & front).sum() / item.full.sum()
            assert item.occlusion == pytest.approx(hidden)
            assert item.occlusion <= 1 - shapes.MIN_VISIBLE
            assert item.visible.sum() >= shapes.MIN_PIXELS


def test_a_third_of_the_objects_is_partly_covered(objects):
    occlusion = np.array([item.occlusion for _, item in objects])
    assert 0.30 <= np.mean(occlusion >= 0.1) <= 0.45


def test_areas_span_a_factor_of_16(objects):
    areas = np.array([item.visible.sum() for _, item in objects])
    low, high = np.percentile(areas, [5, 95])
    assert high / low >= 16
    full = np.array([item.full.sum() for _, item in objects])
    assert np.mean(full < 16**2) > 0.05
    assert np.mean(full > 40**2) > 0.10


def test_outline_tells_the_category_and_colour_does_not(objects):
    labels = np.array([item.label for _, item in objects])
    colours, outlines = [], []
    for image, item in objects:
        inner = cv2.erode(item.visible.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        pixels = image[inner if inner.any() else item.visible].astype(float)
        colours.append([*pixels.mean(axis=0), *pixels.std(axis=0)])
        points = np.argwhere(item.full).astype(np.float32)
        area = float(item.full.sum())
        hull = cv2.contourArea(cv2.convexHull(points))
        (_, (a, b), _), triangle = cv2.minAreaRect(points), cv2.minEnclosingTriangle(points)[0]
        outlines.append([hull / area, area / (a * b), area / triangle, max(a, b) / min(a, b)])
    # 6 is the quantile 0.9999 of F with 4 and about 400 degrees of freedom.
    assert between_class_spread(np.array(colours), labels).max() < 6
    assert half_split_accuracy(np.array(outlines), labels) > 0.6


def test_objects_stand_out_from_what_surrounds_them(objects):
    distances = []
    for image, item in objects:
        if item.occlusion or item.visible.sum() < 200:
            continue
        kernel = np.ones((3, 3), np.uint8)
        inner = cv2.erode(item.visible.astype(np.uint8), kernel)
        outer = cv2.dilate(item.visible.astype(np.uint8), kernel, iterations=3)
        near = cv2.dilate(item.visible.astype(np.uint8), kernel)
        inside, outside = image[inner > 0].mean(axis=0), image[(outer - near) > 0].mean(axis=0)
        distances.append(np.linalg.norm(inside - outside) / 255)
    assert np.mean(np.array(distances) > 0.1) > 0.95


def test_a_picture_depends_on_seed_split_and_index_alone():
    image, items = shapes.draw_scene(5, "train", 7)
    again, again_items = shapes.draw_scene(5, "train", 7)
    np.testing.assert_array_equal(image, again)
    for one, two in zip(items, again_items, strict=True):
        np.testing.assert_array_equal(one.visible, two.visible)
    for other in ((6, "train", 4), (5, "val", 4), (5, "train", 5)):
        assert not np.array_equal(shapes.draw_scene(5, "train", 4)[0], shapes.draw_scene(*other)[0])


@pytest.mark.parametrize("size", [64, 320])
def test_other_sizes(size):
    for index in range(4):
        image, items = shapes.draw_scene(0, "val", index, size)
        assert max(image.shape) == size and items
        assert shapes.draw_closeup(0, "val", index, size)[0].shape == (size, size, 3)


# What is written


@pytest.mark.parametrize("split, count", [("train", 40), ("val", 20)])
def test_coco_files(written, split, count):
    coco = COCO(written / "annotations" / f"instances_{split}.json")
    assert [c["name"] for c in coco.loadCats(coco.getCatIds())] == list(shapes.CATEGORIES)
    assert len(coco.imgs) == count == len(list((written / split).iterdir()))
    assert sorted(coco.anns) == list(range(1, len(coco.dataset["annotations"]) + 1))
    for image_id, info in coco.imgs.items():
        image = cv2.imread(str(written / split / info["file_name"]))[..., ::-1]
        assert image.shape == (info["height"], info["width"], 3)
        drawn, items = shapes.draw_scene(3, split, image_id - 1, SIZE)
        np.testing.assert_array_equal(image, drawn)
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=image_id))
        for annotation, item in zip(annotations, items, strict=True):
            mask = coco.annToMask(annotation)
            np.testing.assert_array_equal(mask, item.visible)
            rows, columns = np.nonzero(mask)
            x, y, width, height = annotation["bbox"]
            assert (x, x + width) == (columns.min(), columns.max() + 1)
            assert (y, y + height) == (rows.min(), rows.max() + 1)
            assert annotation["area"] == mask.sum()
            assert annotation["category_id"] == item.label + 1
            assert annotation["iscrowd"] == 0
            assert annotation["occlusion"] == pytest.approx(item.occlusion, abs=1e-4)


def test_masks_have_a_form_that_mmdet_reads(written):
    content = json.loads((written / "annotations" / "instances_val.json").read_text())
    assert content["annotations"]
    for annotation in content["annotations"]:
        segmentation = annotation["segmentation"]
        assert set(segmentation) == {"size", "counts"} and isinstance(segmentation["counts"], str)
        assert coco_mask.decode(segmentation).sum() == annotation["area"]


def test_same_seed_same_bytes_however_many_images(tmp_path, written):
    shapes.write_detection(tmp_path / "a", seed=3, images=5, val_images=3, size=SIZE)
    shapes.write_detection(tmp_path / "b", seed=3, images=5, val_images=3, size=SIZE)
    shapes.write_detection(tmp_path / "c", seed=4, images=5, val_images=3, size=SIZE)
    first = digests(tmp_path / "a")
    assert first == digests(tmp_path / "b")
    more, other = digests(written), digests(tmp_path / "c")
    pictures = [name for name in first if name.endswith(".png")]
    assert len(pictures) == 8
    assert all(first[name] == more[name] and first[name] != other[name] for name in pictures)
    assert len({first[name] for name in pictures}) == 8


def test_class_folders(tmp_path):
    assert shapes.write_classification(tmp_path / "c", seed=1, images=12, val_images=5, size=64)
    for split, counts in (("train", (3, 3, 2, 2, 2)), ("val", (1,) * 5)):
        folders = sorted((tmp_path / "c" / split).iterdir())
        assert [folder.name for folder in folders] == list(shapes.CATEGORIES)
        for folder, count in zip(folders, counts, strict=True):
            names = sorted(path.name for path in folder.iterdir())
            assert names == [f"{i:05d}.png" for i in range(count)]
            assert cv2.imread(str(folder / names[0])).shape == (64, 64, 3)
    shapes.write_classification(tmp_path / "d", seed=1, images=12, val_images=5, size=64)
    assert digests(tmp_path / "c") == digests(tmp_path / "d")


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    out = tmp_path_factory.mktemp("data") / "panoptic"
    assert shapes.write_panoptic(out, seed=3, images=12, val_images=2, size=SIZE)
    return out


def test_panoptic_set_is_the_detection_set_with_more(labelled, tmp_path):
    options = dict(seed=3, images=12, val_images=2, size=SIZE)
    assert shapes.write_detection(tmp_path / "d", **options)
    detection, panoptic = digests(tmp_path / "d"), digests(labelled)
    assert detection.pop("shapes.json") != panoptic["shapes.json"]
    assert detection.items() < panoptic.items()
    assert not shapes.write_panoptic(labelled, **options)
    (labelled / "semantic/val/000000.png").unlink()
    assert shapes.write_panoptic(labelled, **options)
    assert digests(labelled) == panoptic


def test_panoptic_files_label_every_pixel_as_the_semantic_map_does(labelled):
    content = json.loads((labelled / "annotations/panoptic_train.json").read_text())
    names = {c["id"]: (c["name"], c["isthing"]) for c in content["categories"]}
    assert list(names) == list(range(1, 8))
    assert [name for name, thing in names.values() if thing] == list(shapes.CATEGORIES)
    assert [name for name, thing in names.values() if not thing] == list(shapes.BACKGROUNDS)
    found = set()
    for info, annotation in zip(content["images"], content["annotations"], strict=True):
        assert info["id"] == annotation["image_id"]
        _, items = shapes.draw_scene(3, "train", info["id"] - 1, SIZE)
        path = labelled / "annotations/panoptic_train" / annotation["file_name"]
        numbers = cv2.imread(str(path))[..., ::-1].astype(int) @ [1, 256, 256**2]
        semantic = cv2.imread(str(labelled / "semantic/train" / annotation["file_name"]), -1)
        assert semantic.shape == numbers.shape == (info["height"], info["width"])
        infos = annotation["segments_info"]
        assert sorted(np.unique(numbers)) == [each["id"] for each in infos]  # and no 0
        for each in infos:
            rows, columns = np.nonzero(numbers == each["id"])
            assert each["area"] == len(rows)
            x, y, width, height = each["bbox"]
            assert (x, x + width) == (columns.min(), columns.max() + 1)
            assert (y, y + height) == (rows.min(), rows.max() + 1)
            assert set(semantic[rows, columns]) == {each["category_id"] - 1}
            found.add(names[each["category_id"]][0])
        things = [each for each in infos if each["category_id"] <= len(shapes.CATEGORIES)]
        assert [each["category_id"] - 1 for each in things] == [item.label for item in items]
        for each, item in zip(things, items, strict=True):
            np.testing.assert_array_equal(numbers == each["id"], item.visible)
    assert found == {*shapes.CATEGORIES, *shapes.BACKGROUNDS}


def test_lines_are_where_paint_has_changed_the_ground(monkeypatch):
    changed = np.zeros((SIZE, SIZE), bool)
    paint = shapes._paint

    def note(rng, canvas, *rest):
        before = canvas.copy()
        paint(rng, canvas, *rest)
        changed[:] |= (canvas != before).any(axis=2)

    monkeypatch.setattr(shapes, "_paint", note)
    _, lines = shapes._draw_background(np.random.default_rng(5), SIZE, SIZE, SIZE)
    assert 0.01 < lines.mean() < 0.5 and changed[lines].all()
    near = cv2.dilate(lines.astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    assert near[changed].mean() > 0.95  # soft edges


# The script


def test_script_writes_all_sets_and_skips_what_is_there(tmp_path, capsys):
    script = load_script()
    command = ["--out", str(tmp_path / "s"), "--images", "6", "--val-images", "5", "--size", "64"]
    script.main([*command, "--classification", "--panoptic"])
    assert "train: 6/6 images" in capsys.readouterr().out
    assert (tmp_path / "s/annotations/instances_val.json").is_file()
    assert (tmp_path / "s/classification/val/star/00000.png").is_file()
    assert (tmp_path / "s/panoptic/semantic/val/000004.png").is_file()
    before = digests(tmp_path / "s")
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "s").rglob("*.png")}
    script.main([*command, "--classification", "--panoptic"])
    assert capsys.readouterr().out.count("already exists") == 3
    assert times == {path: path.stat().st_mtime_ns for path in times}
    script.main([*command, "--seed", "1"])
    after = digests(tmp_path / "s")
    assert after["train/000000.png"] != before["train/000000.png"]


def test_interrupted_run_is_made_anew(tmp_path, monkeypatch):
    script = load_script()
    command = ["--out", str(tmp_path / "s"), "--images", "6", "--val-images", "2", "--size", "64"]

    def interrupt(seed, split, index, size):
        if index == 3:
            raise KeyboardInterrupt
        return shapes_draw(seed, split, index, size)

    shapes_draw = shapes.draw_scene
    with monkeypatch.context() as patch:
        patch.setattr(shapes, "draw_scene", interrupt)
        with pytest.raises(SystemExit, match="run the same command again"):
            script.main(command)
    assert len(list((tmp_path / "s/train").iterdir())) == 3
    script.main(command)
    shapes.write_detection(tmp_path / "whole", images=6, val_images=2, size=64)
    assert digests(tmp_path / "s") == digests(tmp_path / "whole")


@pytest.mark.parametrize("lost", ["val/000001.png", "annotations/instances_train.json"])
def test_damaged_set_is_made_anew(tmp_path, lost):
    options = dict(images=2, val_images=2, size=64)
    assert shapes.write_detection(tmp_path, **options)
    before = digests(tmp_path)
    (tmp_path / lost).unlink()
    assert shapes.write_detection(tmp_path, **options)
    assert digests(tmp_path) == before


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--images", "0"], "images is 0"),
        (["--val-images", "-1"], "val_images is -1"),
        (["--size", "32"], "size is 32; it must be between 64 and 1024"),
        (["--size", "5000"], "size is 5000"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
def test_script_refuses_bad_values_in_one_sentence(tmp_path, arguments, message):
    with pytest.raises(SystemExit) as error:
        load_script().main(["--out", str(tmp_path / "s"), *arguments])
    assert message in error.value.code and "\n" not in error.value.code
    assert not (tmp_path / "s").exists()


def test_class_folders_need_an_image_for_each_category(tmp_path):
    with pytest.raises(ValueError, match="val_images is 4; it must be between 5"):
        shapes.write_classification(tmp_path / "c", images=10, val_images=4)


@pytest.mark.parametrize("record", [None, '{"images": []}', "[1]", "{"])
def test_files_of_others_are_left_alone(tmp_path, record):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.png").write_bytes(b"mine")
    if record:
        (tmp_path / "shapes.json").write_text(record)
    with pytest.raises(SystemExit, match="was not made by this generator"):
        load_script().main(["--out", str(tmp_path), "--images", "2", "--val-images", "1"])
    assert (tmp_path / "train" / "mine.png").read_bytes() == b"mine"
    assert not record or (tmp_path / "shapes.json").read_text() == record


def test_script_refuses_a_path_it_cannot_write_to(tmp_path):
    (tmp_path / "file").write_text("text")
    with pytest.raises(SystemExit, match="choose another --out folder"):
        load_script().main(["--out", str(tmp_path / "file" / "s"), "--images", "2"])
    with pytest.raises(SystemExit, match="is a file"):
        load_script().main(["--out", str(tmp_path / "file"), "--images", "2"])
