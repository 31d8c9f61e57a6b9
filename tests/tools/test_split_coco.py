"""A file in COCO's format becomes one for training and one for validation."""

import json

import pytest

SCRIPT = "dataset_converters/split_coco.py"


@pytest.fixture
def annotations(tmp_path):
    images = [dict(id=100 + i, file_name=f"{i}.jpg", height=9, width=9) for i in range(20)]
    notes = [
        dict(id=i, image_id=100 + i % 19, category_id=3 + i % 2, bbox=[0, 0, i + 1, 2])
        for i in range(60)
    ]
    categories = [dict(id=3, name="cat"), dict(id=4, name="dog"), dict(id=9, name="cow")]
    content = dict(info=dict(year=2026), licenses=[], images=images, annotations=notes)
    path = tmp_path / "all.json"
    path.write_text(json.dumps(content | dict(categories=categories)))
    return path


def halves(annotations):
    return [json.loads(annotations.with_name(f"{n}.json").read_text()) for n in ("train", "val")]


def spoil(part, **changes):
    def change(path):
        content = json.loads(path.read_text())
        content[part][1].update(changes)
        path.write_text(json.dumps(content))

    return change


def test_every_image_is_in_one_part_with_its_objects(start, annotations):
    result = start(SCRIPT, annotations, "--share", 0.25, code=0)
    assert "val.json: 5 images" in result.out and "no object of: cow" in result.err
    whole, (train, val) = json.loads(annotations.read_text()), halves(annotations)
    assert len(train["images"]) == 15 and len(val["images"]) == 5
    for key, order in (("images", "id"), ("annotations", "id")):
        both = sorted(train[key] + val[key], key=lambda item: item[order])
        assert both == whole[key]
    for part in (train, val):
        assert {n["image_id"] for n in part["annotations"]} <= {i["id"] for i in part["images"]}
        assert all(part[key] == whole[key] for key in ("info", "licenses", "categories"))


def test_the_seed_decides(start, annotations):
    found = []
    for seed in (0, 0, 1):
        start(SCRIPT, annotations, "--seed", seed, "--force", code=0)
        found.append(halves(annotations))
    assert found[0] == found[1] != found[2]


@pytest.mark.parametrize(
    "change, sentence",
    [
        (lambda path: path.write_text("[1, 2]"), "is a JSON list, not a COCO file"),
        (lambda path: path.write_text("{"), "is not JSON"),
        (lambda path: path.unlink(), "cannot be read (No such file"),
        (lambda path: path.with_name("val.json").write_text("mine"), "already exists"),
        (
            lambda path: path.write_text(
                '{"images": [{"id": 1}], "annotations": [], "categories": []}'
            ),
            "has 1 images, of which 0 would be",
        ),
        (lambda path: path.with_name("val.json").mkdir(), "val.json is a folder"),
        (spoil("images", id=100), "gives the image id 100 twice"),
        (spoil("images", id="101"), "has the string '101' for an image id"),
        (spoil("images", id=[101]), "has the image id [101]"),
        (spoil("annotations", image_id="101"), "(the 2th in the list) whose image_id is '101'"),
        (spoil("annotations", category_id=[3]), "whose category_id is [3]"),
        (spoil("categories", id=3), "gives the category id 3 twice"),
    ],
)
def test_what_cannot_be_split_ends_in_a_sentence(start, annotations, change, sentence):
    change(annotations)
    result = start(SCRIPT, annotations, code=2)
    assert result.err.startswith("error: ") and sentence in result.err
    assert not annotations.with_name("train.json").exists()
