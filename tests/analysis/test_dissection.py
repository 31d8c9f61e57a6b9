import math

import cv2
import numpy as np
import pytest
import torch
from helpers.planted import LABELS, write_broden, write_map

from mmhcgnet.analysis.dissection import units as dissection
from mmhcgnet.analysis.dissection.units import Dissection, LargestValues, describe
from mmhcgnet.datasets.broden import Broden
from mmhcgnet.errors import DataError, MissingFileError, UsageError

UNITS = 5


class RandomProbe:
    """Maps that are linear in the image, some of them mostly zero, as after a ReLU."""

    layer = "random"

    def __init__(self):
        generator = torch.Generator().manual_seed(1)
        self.weight = torch.randn(UNITS, 3, 4, 4, generator=generator)
        self.bias = torch.tensor([0.0, -900.0, 300.0, -2000.0, 0.0])
        self.images = 0

    def __call__(self, images):
        self.images += len(images)
        maps = torch.nn.functional.conv2d(images.float(), self.weight, self.bias, stride=4)
        return maps.relu()


@pytest.fixture
def broden(tmp_path):
    """Random images; labels in several maps of an image, of several sizes, and overlapping."""
    (tmp_path / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(12):
        size = [(14, 14), (9, 21)][i % 2]
        row = dict(image=f"{i}.png", split="train", ih=16, iw=24, sh=size[0], sw=size[1])
        for category, choices in dict(color=(0, 1, 2), object=(0, 300), part=(0, 300)).items():
            names = [f"{i}_{category}{n}.png" for n in range(rng.integers(0, 3))]
            row[category] = ";".join(names)
            for name in names:
                write_map(tmp_path / "images" / name, rng.choice(choices, size))
        row["texture"] = ["", "4", "4;5"][rng.integers(3)]
        image = rng.integers(0, 256, (16, 24, 3), np.uint8)
        assert cv2.imwrite(str(tmp_path / "images" / row["image"]), image)
        rows.append(row)
    write_broden(tmp_path, rows)
    return tmp_path


def dissect(root, folder, probe=None, **settings):
    data = Broden(root)
    settings = dict(quantile=0.03, batch_size=5, setup={}) | settings
    found = Dissection(probe or RandomProbe(), data, (16, 24), "bgr", folder=folder, **settings)
    found.run()
    return found, data


# --- thresholds ----------------------------------------------------------------------------------


@pytest.mark.parametrize("quantile", [0.005, 0.29, 0.9])
def test_thresholds_are_exact(quantile):
    torch.manual_seed(3)
    maps = torch.randn(500, 3, 5, 10).relu() + torch.arange(3)[:, None, None]
    largest = LargestValues(3, 500, 50, quantile, memory=1e9)
    for start in range(0, 500, 37):
        largest.add(maps[start : start + 37], seed=start)
    values = maps.transpose(0, 1).flatten(1)
    found = largest.thresholds()
    for unit in range(3):
        ordered = sorted(values[unit].tolist(), reverse=True)
        assert found[unit].item() == ordered[round(quantile * 25_000)]
    assert ((values > found[:, None]).sum(1) <= quantile * 25_000).all()
    assert largest.share == 1 and largest.error == 0


def test_memory_of_exact_thresholds():
    """All units of HCGNet-B on 60,000 images of Broden keep far less than their maps' 14.6 GB."""
    largest = LargestValues(1244, 60_000, 49, 0.005, memory=2e9, device="meta")
    assert largest.share == 1 and largest.keep == 14_701
    assert 146e6 < largest.values.nbytes < 147e6
    half = LargestValues(1244, 30_000, 49, 0.005, memory=2e9, device="meta")
    assert largest.values.nbytes / half.values.nbytes == pytest.approx(2, rel=0.001)


def test_less_memory_takes_a_share_with_the_stated_error():
    torch.manual_seed(3)
    maps = torch.randn(2000, 40, 5, 10)
    share = []
    for memory in (1e9, 64_000):
        largest = LargestValues(40, 2000, 50, 0.02, memory=memory)
        for start in range(0, 2000, 100):
            largest.add(maps[start : start + 100], seed=start)
        above = maps.transpose(0, 1).flatten(1) > largest.thresholds()[:, None]
        share.append(above.double().mean(1))
    assert largest.share == 0.1 and 8 * 40 * largest.keep <= 64_000 * 1.01
    assert (share[0] == 0.02).all()
    assert largest.error == pytest.approx(math.sqrt(0.9 * 0.02 / 10_000))
    spread = (share[1] - 0.02).square().mean().sqrt().item()
    assert 0.6 * largest.error < spread < 1.4 * largest.error


def test_too_few_activations_for_the_quantile():
    with pytest.raises(UsageError, match="take more images or a larger quantile"):
        LargestValues(3, 3, 49, 0.005, memory=1e9)


# --- IoU -----------------------------------------------------------------------------------------


def enlarge(values, size):
    """Bilinear, pixel by pixel: centres at whole numbers and a half, edges repeated."""
    height, width = values.shape
    result = np.zeros(size)
    for y in range(size[0]):
        for x in range(size[1]):
            v = min(max((y + 0.5) * height / size[0] - 0.5, 0), height - 1)
            u = min(max((x + 0.5) * width / size[1] - 0.5, 0), width - 1)
            top, left = int(v), int(u)
            below, right = min(top + 1, height - 1), min(left + 1, width - 1)
            upper = values[top, left] * (1 - u + left) + values[top, right] * (u - left)
            lower = values[below, left] * (1 - u + left) + values[below, right] * (u - left)
            result[y, x] = upper * (1 - v + top) + lower * (v - top)
    return result


def iou_by_sets(root, data, probe, quantile):
    """Thresholds and IoU by sorting everything and by sets of pixels."""
    maps = [probe(torch.from_numpy(cv2.imread(str(data.path(i))).transpose(2, 0, 1))[None])[0]
            for i in range(len(data))]  # fmt: skip
    maps = torch.stack(maps).double().numpy()
    activations = np.sort(maps.transpose(1, 0, 2, 3).reshape(UNITS, -1))[:, ::-1]
    thresholds = activations[:, math.floor(quantile * activations.shape[1])]
    home = {1: "color", 2: "color", 300: "object", 4: "texture", 5: "texture", 6: "scene"}
    units = {(unit, label): set() for unit in range(UNITS) for label in LABELS}
    concepts = {label: set() for label in LABELS}
    for i, row in enumerate(data.rows):
        size = int(row["sh"]), int(row["sw"])
        places = [(i, y, x) for y in range(size[0]) for x in range(size[1])]
        here = {label: set() for label in LABELS}
        for category in home.values():
            for part in filter(None, row[category].split(";")):
                if part.isdecimal():
                    here[int(part)].update(places)
        for part in filter(None, ";".join(row[c] for c in ("color", "object", "part")).split(";")):
            blue_green_red = cv2.imread(str(root / "images" / part)).astype(int)
            for _, y, x in places:
                label = blue_green_red[y, x, 2] + 256 * blue_green_red[y, x, 1]
                if label:
                    here[label].add((i, y, x))
        for unit in range(UNITS):
            above = enlarge(maps[i, unit], size) > thresholds[unit]
            mask = {(i, y, x) for _, y, x in places if above[y, x]}
            for label in LABELS:
                if any(here[other] for other in LABELS if home[other] == home[label]):
                    units[unit, label] |= mask
        for label, found in here.items():
            concepts[label] |= found
    iou = np.zeros((UNITS, max(LABELS) + 1))
    for (unit, label), mask in units.items():
        union = len(mask | concepts[label])
        iou[unit, label] = len(mask & concepts[label]) / union if union else 0
    return thresholds, iou


def test_equal_to_brute_force(broden, tmp_path, monkeypatch):
    monkeypatch.setattr(dissection, "_PIXELS_AT_ONCE", 400)  # two units at a time
    found, data = dissect(broden, tmp_path / "out")
    thresholds, iou = iou_by_sets(broden, data, RandomProbe(), 0.03)
    np.testing.assert_allclose(found.thresholds, thresholds, rtol=1e-6)
    np.testing.assert_allclose(found.tally.iou(), iou, atol=1e-12)
    assert (iou > 0).sum() > 10 and (thresholds > 0).sum() > 2
    for unit, best in zip(describe(found, data), iou.max(1), strict=True):
        assert unit["iou"] == pytest.approx(best, abs=1e-12)
        assert unit["concept"] in (None, *(name for name, _ in LABELS.values()))


def test_images_of_the_largest_activations(broden, tmp_path):
    found, data = dissect(broden, tmp_path / "out")
    images = [data.load(i, (16, 24)).transpose(2, 0, 1) for i in range(len(data))]
    peaks = RandomProbe()(torch.tensor(np.array(images))).amax((2, 3))
    assert (found.top_images[0] == peaks[:, 0].argsort(descending=True)[:4].numpy()).all()
    for i, image, maps in found.maps([3, 7]):
        np.testing.assert_array_equal(image, cv2.imread(str(data.path(i))))
        assert maps.amax((1, 2)).tolist() == pytest.approx(peaks[i].tolist())


# --- going on ------------------------------------------------------------------------------------


@pytest.mark.parametrize("read_before", [1 + 8, 1 + 12 + 8])
def test_an_interrupted_run_goes_on(broden, tmp_path, monkeypatch, read_before):
    """Killed in either pass, it does the rest alone and finds the same."""

    class Stops(RandomProbe):
        def __call__(self, images):
            if self.images + len(images) > read_before:
                raise KeyboardInterrupt
            return super().__call__(images)

    monkeypatch.setattr(dissection, "_SECONDS_BETWEEN_SAVES", 0)
    # With less memory than it takes, the positions are drawn, and the same ones again.
    settings = dict(batch_size=4, memory=8 * UNITS * 0.5 * 12 * 24 / 2, quantile=0.5)
    whole, _ = dissect(broden, tmp_path / "whole", **settings)
    assert whole.quantile_error > 0
    with pytest.raises(KeyboardInterrupt):
        dissect(broden, tmp_path / "out", Stops(), **settings)
    probe = RandomProbe()
    rest, _ = dissect(broden, tmp_path / "out", probe, **settings)
    assert probe.images == 1 + 24 - (read_before - 1)
    assert rest.thresholds.tolist() == whole.thresholds.tolist()
    np.testing.assert_array_equal(rest.top_images, whole.top_images)
    np.testing.assert_array_equal(rest.tally.iou(), whole.tally.iou())
    done = RandomProbe()
    dissect(broden, tmp_path / "out", done, **settings)
    assert done.images == 1


def test_another_dissection_is_not_continued(broden, tmp_path):
    dissect(broden, tmp_path / "out")
    with pytest.raises(UsageError, match="holds a dissection with other quantile: name another"):
        dissect(broden, tmp_path / "out", quantile=0.04)
    (tmp_path / "out/state.npz").write_bytes(b"PK\x03\x04")
    with pytest.raises(UsageError, match="cannot be read: delete it"):
        dissect(broden, tmp_path / "out")


# --- the data ------------------------------------------------------------------------------------


def test_images_are_spread_over_the_index(broden):
    assert [row["image"] for row in Broden(broden, 3).rows] == ["0.png", "6.png", "11.png"]
    assert len(Broden(broden, 99)) == len(Broden(broden)) == 12


def test_order_of_the_channels(broden):
    data = Broden(broden)
    bgr, rgb = (data.load(1, (16, 24), order) for order in ("bgr", "rgb"))
    np.testing.assert_array_equal(bgr, rgb[..., ::-1])
    assert (bgr != rgb).any() and data.load(1, (8, 8)).shape == (8, 8, 3)


def edit(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    "file, old, new, sentence",
    [
        ("index.csv", "texture", "cloth", "index.csv has no column texture"),
        ("label.csv", "4,striped", "x,striped", "a row without a number or a category"),
        ("label.csv", "scene(40)", "place(40)", "has no category place, which the label night"),
        ("category.csv", "name", "title", "category.csv has no column name"),
        ("index.csv", ",14,14,", ",14,,", "gives 0.png no size of label maps"),
        ("index.csv", ",14,14,", ",14,15,", "but the index says 14 and 15"),
        ("label.csv", "1,red-c", "7,red-c", "label.csv has no label 1, which 0.png has"),
        ("index.csv", "0_color0.png", "none.png", "none.png does not exist"),
        ("index.csv", "0.png", "none.png", "none.png cannot be read"),
    ],
)
def test_mistakes_in_the_data(broden, tmp_path, file, old, new, sentence):
    edit(broden / file, old, new)
    with pytest.raises(DataError, match=sentence.replace("(", "[(]")):
        dissect(broden, tmp_path / "out")


def test_damaged_files(broden, tmp_path):
    name = next(iter(sorted(broden.glob("images/*_color0.png"))))
    name.write_bytes(b"no picture")
    with pytest.raises(DataError, match=f"The label map .*{name.name} cannot be decoded"):
        dissect(broden, tmp_path / "out")
    (broden / "images/2.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match="The image .*2.png cannot be decoded"):
        dissect(broden, tmp_path / "out2", workers=1)  # no traceback of the worker
    (broden / "category.csv").unlink()
    with pytest.raises(MissingFileError, match="category.csv does not exist: data must be"):
        Broden(broden)
