import errno
import functools
import json

import cv2
import numpy as np
import pytest

from mmhcgnet.datasets.broden import Broden
from mmhcgnet.datasets.coco_to_broden import COLOURS, name_colours

pytest.importorskip("pycocotools")


def box(number, image, category, x, y, width, height):
    corners = [x, y, x + width, y, x + width, y + height, x, y + height]
    return dict(
        **dict(id=number, image_id=image, category_id=category, segmentation=[corners]),
        **dict(bbox=[x, y, width, height], area=width * height, iscrowd=0),
    )


@pytest.fixture
def coco(tmp_path):
    """Two images: in the first, a cat on a mat, and a second cat beside; the other is empty."""
    (tmp_path / "images/val").mkdir(parents=True)
    image = np.full((40, 60, 3), (0, 0, 200), np.uint8)
    image[:, 30:] = (200, 0, 0)
    for i in (1, 2):
        assert cv2.imwrite(str(tmp_path / f"images/val/{i}.png"), image)
    content = dict(
        images=[dict(id=i, file_name=f"val/{i}.png", width=60, height=40) for i in (1, 2)],
        categories=[dict(id=7, name="mat"), dict(id=3, name="cat, black")],
        annotations=[
            box(1, 1, 7, 0, 20, 40, 20),
            box(2, 1, 3, 10, 10, 20, 20),
            box(3, 1, 3, 50, 0, 10, 10),
        ],
    )
    (tmp_path / "a.json").write_text(json.dumps(content))
    return tmp_path


@pytest.fixture
def run(start, monkeypatch, coco):
    monkeypatch.chdir(coco)
    return functools.partial(start, "dataset_converters/coco_to_broden.py", code=0)


@pytest.mark.parametrize("side, scale", [(60, 1), (30, 2)])
def test_masks_and_colours_arrive(run, coco, side, scale):
    run("a.json", "images", "--out", "out/new", "--side", side)
    data = Broden(coco / "out/new")
    assert len(data) == 2 and data.categories == ("color", "object")
    np.testing.assert_array_equal(data.load(0, (40, 60))[0, 0], (0, 0, 200))
    found = data.annotation(0)
    masks = {data.names[n]: mask for n, mask in zip(found.labels, found.masks, strict=True)}
    assert list(masks) == ["blue-c", "red-c", "cat, black", "mat"]
    expected = np.zeros((4, 40, 60), bool)
    expected[0, :, 30:] = expected[1, :, :30] = True
    expected[2, 10:30, 10:30] = expected[2, :10, 50:] = True
    expected[3, 20:, :40] = True  # under the cat, too
    np.testing.assert_array_equal(list(masks.values()), expected[:, ::scale, ::scale])
    assert [data.names[n] for n in data.annotation(1).labels] == ["blue-c", "red-c"]
    run("a.json", "images", "--out", "one", "--images-taken", 1)
    assert len(Broden(coco / "one")) == 1
    # An object of a category that the file does not name is left out.
    (coco / "b.json").write_text((coco / "a.json").read_text().replace('"id": 7,', '"id": 8,'))
    run("b.json", "images", "--out", "two")
    data = Broden(coco / "two")
    assert [data.names[n] for n in data.annotation(0).labels] == ["blue-c", "red-c", "cat, black"]


def test_names_of_colours():
    seen = dict(
        black=(20, 20, 20), white=(250, 250, 250), grey=(128, 128, 128), red=(20, 20, 220),
        green=(40, 180, 40), blue=(220, 60, 30), yellow=(30, 220, 230), orange=(20, 140, 250),
        brown=(30, 70, 120), purple=(200, 30, 130), pink=(180, 80, 250),
    )  # fmt: skip
    image = np.array([list(seen.values())], np.uint8)
    assert [COLOURS[n - 1] for n in name_colours(image)[0]] == list(seen)
    assert set(seen) == set(COLOURS)
    # Hues around the circle get all the names that hues have.
    hues = np.full((1, 180, 3), 255, np.uint8)
    hues[..., 0] = np.arange(180)
    names = [COLOURS[n - 1] for n in name_colours(cv2.cvtColor(hues, cv2.COLOR_HSV2BGR))[0]]
    assert names[0] == names[-1] == "red" and len(set(names)) == 7


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["no.json", "images", "--out", "out"], "The annotations no.json do not exist."),
        (["index.csv", "images", "--out", "out"], "index.csv are not COCO instances"),
        (["empty.json", "images", "--out", "out"], "empty.json are not COCO instances with masks"),
        (["a.json", "nowhere", "--out", "out"], "nowhere/val/1.png does not exist"),
        (["wide.json", "images", "--out", "out"], "another size than its annotations say"),
        (["up.json", "images", "--out", "out"], "is not in the folder of the images"),
        (["a.json", "images", "--out", "."], "is already a data set in Broden's format"),
        (["a.json", "images", "--out", "out", "--side", "0"], "side of the maps above 0"),
        (["a.json", "set/images", "--out", "set"], "be written among the images in set/images"),
    ],
)
def test_mistakes_get_one_sentence(run, coco, args, sentence):
    (coco / "index.csv").write_text("image")
    (coco / "empty.json").write_text(json.dumps(dict(images=[], annotations=[], categories=[])))
    (coco / "wide.json").write_text((coco / "a.json").read_text().replace("60,", "61,"))
    (coco / "up.json").write_text((coco / "a.json").read_text().replace("val/", "../images/val/"))
    assert sentence in run(*args, code=2).err.splitlines()[-1]


@pytest.mark.parametrize(
    "names",
    [("a;b.png", "ab.png"), (";.png", "x;y;z.png"), ("a;b.png", "a%3Bb.png")],
)
def test_semicolons_in_names_do_not_separate_maps(run, coco, names):
    content = json.loads((coco / "a.json").read_text())
    for image, name in zip(content["images"], names, strict=True):
        (coco / "images" / image["file_name"]).rename(coco / "images" / name)
        image["file_name"] = name
    (coco / "a.json").write_text(json.dumps(content))
    run("a.json", "images", "--out", "out/new", "--side", 60)
    data = Broden(coco / "out/new")
    assert [data.names[n] for n in data.annotation(0).labels][2:] == ["cat, black", "mat"]
    assert [data.names[n] for n in data.annotation(1).labels] == ["blue-c", "red-c"]
    np.testing.assert_array_equal(data.load(0, (40, 60))[0, 0], (0, 0, 200))


def test_a_full_disk_leaves_no_index(run, coco, monkeypatch):
    def write(path, content):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", write)
    monkeypatch.setattr("cv2.imwrite", lambda *_: False)  # as OpenCV says it
    assert "No space left on device" in run("a.json", "images", "--out", "new", code=2).err
    assert not (coco / "new/index.csv").exists()
