"""Compressed RLEs, compared with pycocotools, and polygons in fractions."""

import numpy as np
import pytest
from pycocotools import mask as coco_mask

from mmhcgnet.datasets.checks.coco import inspect_coco, read_coco
from mmhcgnet.datasets.checks.masks import broken_runs


def encode(mask):
    return coco_mask.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"].decode()


def masks(rng):
    for kind in range(60):
        height, width = rng.integers(1, 90, 2)
        mask = np.zeros((height, width), bool)
        if kind % 4 == 0:
            mask = rng.random((height, width)) > 0.5
        elif kind % 4 == 1:
            mask[height // 3 :, width // 4 : width // 2 + 1] = True
        elif kind % 4 == 2:
            mask[:] = True
        yield mask


def test_good_runs_pass_whatever_the_mask():
    made = list(masks(np.random.default_rng(0)))
    texts = [encode(mask) for mask in made]
    assert list(broken_runs(texts, np.array([mask.size for mask in made]))) == []


def good():
    mask = np.zeros((20, 30))
    mask[4:9, 3:20] = 1
    return encode(mask)


@pytest.mark.parametrize(
    "spoil, reason",
    [
        (lambda text: text[:-1] + chr(ord(text[-1]) + 32), "cut off within a number"),
        (lambda text: text[: len(text) // 2], "ends after"),
        (lambda text: text[:-2], "ends after"),
        (lambda text: text + "5", "goes on for"),
        (lambda text: text + "T4", "goes on for"),
        (lambda text: f"b'{text}'", "characters that do not occur"),
        (lambda text: "é" + text, "characters that do not occur"),
        (lambda text: text + "\n", "characters that do not occur"),
        (lambda text: "O" + text[1:], "negative"),
        (lambda text: "o" * 20 + "0", "negative or too long"),
    ],
)
def test_broken_runs_are_told_from_their_neighbours(spoil, reason):
    texts = [good(), spoil(good()), good()]
    ((place, told),) = broken_runs(texts, np.array([600] * 3))
    assert place == 1 and reason in told


def one_object(segmentation, box=(3, 4, 17, 5)):
    return dict(
        images=[dict(id=1, file_name="1.png", height=20, width=30)],
        annotations=[
            dict(
                id=7,
                image_id=1,
                category_id=1,
                bbox=list(box),
                area=85,
                iscrowd=0,
                segmentation=segmentation,
            )
        ],
        categories=[dict(id=1, name="cat")],
    )


@pytest.mark.parametrize("evaluated", [True, False])
def test_a_broken_rle_is_named_with_its_annotation(evaluated):
    rle = dict(size=[20, 30], counts=good())
    assert inspect_coco(one_object(rle), "a.json", masks=True, evaluated=evaluated) == []
    rle["counts"] = rle["counts"][:-2]
    (found,) = inspect_coco(one_object(rle), "a.json", masks=True, evaluated=evaluated)
    assert not found.harmless and "(id 7, image 1) whose mask, a compressed RLE, ends after" in (
        found.sentence
    )
    # Where no masks are read, they do no harm.
    assert inspect_coco(one_object(rle), "a.json", evaluated=evaluated) == []


def test_an_evaluation_reads_the_masks_of_objects_that_training_leaves_out():
    rle = dict(size=[20, 30], counts=good()[:-2])
    content = one_object(rle, box=(3, 4, 0.5, 0.5))
    content["annotations"].append(dict(one_object([[3, 3, 9, 3, 9, 9]])["annotations"][0], id=8))
    kinds = [f.kind for f in inspect_coco(content, "a.json", masks=True, evaluated=True)]
    assert "broken RLE" in kinds
    assert "broken RLE" not in [f.kind for f in inspect_coco(content, "a.json", masks=True)]


@pytest.mark.parametrize(
    "polygons",
    [
        [[0.1, 0.2, 0.66, 0.2, 0.66, 0.45]],
        [[0.1, 0.2, 0.3, 0.2, 0.3, 0.45], [0.4, 0.2, 0.5, 0.2, 0.5, 0.45]],
        [[0.125, 0.25] * 90],
        [[0, 0, 1, 0, 1, 1]],
    ],
)
def test_polygons_in_fractions_are_found_also_where_polygons_are_not_read(polygons, tmp_path):
    import json

    (tmp_path / "a.json").write_text(json.dumps(one_object(polygons)))
    for thorough in (True, False):
        content, _ = read_coco(str(tmp_path / "a.json"), polygons=thorough)
        (found,) = inspect_coco(content, "a.json", masks=True)
        assert found.kind == "polygon in fractions" and not found.harmless
    # A small object in the corner of an image.
    content["annotations"][0]["bbox"] = [0, 0, 1, 1]
    assert inspect_coco(content, "a.json", masks=True) == []
