"""The tool that dissects, run in this process on generated data in Broden's format."""

import base64
import csv
import json

import cv2
import numpy as np
import pytest
import torch
from helpers.configs import classifier, detector, hcgnet
from helpers.planted import CATEGORIES, PLANTED_CONFIG, make_planted

from mmhcgnet.checkpoints import checkpoint
from mmhcgnet.engine.configs import load_config
from mmhcgnet.engine.models import build_model

TOOL = "analysis_tools/dissect.py"
STD = (60.0,) * 3
CLASSIFIER = classifier(hcgnet(), 20, classes=3, std=STD)
DETECTOR = detector(hcgnet(out_indices=(0, 1)), [24, 20], strides=[1, 2], std=STD)


@pytest.fixture
def run(start, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *args: start(TOOL, *args, code=0).out


@pytest.fixture
def refused(start, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    return lambda *args: start(TOOL, *args, code=2).err.splitlines()[-1]


@pytest.fixture(scope="module")
def broden(tmp_path_factory):
    root = tmp_path_factory.mktemp("broden")
    make_planted(root)
    return root


def make_model(folder, name, config):
    path = folder / f"{name}.py"
    path.write_text(config)
    model = build_model(load_config(str(path)))
    torch.save(dict(state_dict=model.state_dict()), folder / f"{name}.pth")
    return path, folder / f"{name}.pth"


@pytest.fixture
def planted(tmp_path):
    return make_model(tmp_path, "planted", PLANTED_CONFIG)


def test_planted_units_are_found(run, planted, broden, tmp_path):
    """With the paper's quantile and IoU. Thresholds are 0, so that enlarged masks are wider."""
    pytest.importorskip("matplotlib")
    out = run(
        *(*planted, "--data", broden, "--shape", 28, "--out", "out", "--batch-size", 64),
        *("--plot", "new/bars.svg", "--name", "a & b"),
    )
    result = json.loads((tmp_path / "out/units.json").read_text())
    red, blue, striped, banded, none = result["units"]
    # 3 x 3 cells of 2 x 2 pixels each, and half a cell around them.
    patch = 6 * 6 / (8 * 8)
    for unit, concept, category, iou in (
        (red, "red-c", "color", patch),
        (blue, "blue-c", "color", patch),
        (striped, "striped", "texture", 1),
        (banded, "banded", "texture", 1),
        (none, None, None, 0),
    ):
        assert (unit["concept"], unit["category"]) == (concept, category)
        assert unit["iou"] == pytest.approx(iou, abs=1e-9) and unit["threshold"] == 0
    assert sorted(striped["images"][:2]) == ["002.png", "027.png"]
    assert set(red["images"]) < {f"{i:03d}.png" for i in range(0, 200, 25)}

    counts = [2, 0, 0, 0, 0, 2]
    (line,) = (line for line in out.splitlines() if line.startswith("| a & b"))
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells == ["a & b", *map(str, counts), "4", "4 of 5"]
    assert [f" {name} " in out for name in CATEGORIES] == [True] * 6
    rows = list(csv.DictReader((tmp_path / "out/units.csv").open()))
    assert [row["unit"] for row in rows] == ["2", "3", "0", "1", "4"]
    assert rows[2]["concept"] == "red-c" and float(rows[2]["iou"]) == red["iou"]
    assert "<svg" in (tmp_path / "new/bars.svg").read_text()


def test_weights_are_found_by_name(run, planted, broden, tmp_path, monkeypatch):
    config, weights = planted
    monkeypatch.setattr(checkpoint, "shipped_weights", dict(shipped=weights).get)
    run(config, "shipped", "--data", broden, "--shape", 28, "--out", "out", "--images", 20)
    assert (tmp_path / "out/units.json").is_file()


def test_the_page_shows_masks_and_needs_no_other_file(run, planted, broden, tmp_path):
    run(*planted, "--data", broden, "--shape", 28, "--out", "out", "--name", "a & <b>")
    page = (tmp_path / "out/page.html").read_text()
    assert "<title>a &amp; &lt;b&gt;, layer backbone</title>" in page and "All 5 units" in page
    sections = page.split("<section")[1:]
    assert "unit 2 · striped (texture) · IoU 1.000" in sections[0]
    assert "class=no" in sections[4] and "class=no" not in sections[3]
    assert "no concept" in sections[4] and "never above its threshold" in sections[4]
    assert page.count("<img") == 2 + 2 + 4 + 4
    assert page.count("src=") == page.count("data:image/jpeg;base64,") and "http" not in page

    tile = base64.b64decode(sections[2].partition("base64,")[2].partition('"')[0])
    tile = cv2.imdecode(np.frombuffer(tile, np.uint8), cv2.IMREAD_COLOR).astype(int)
    blue, green, red = tile.transpose(2, 0, 1)
    bright = (red > 120) & (green < 60) & (blue < 60)  # the patch, and grey in the dark around
    share = (3 / 7) ** 2
    assert tile.shape == (96, 96, 3) and 0.7 * share < bright.mean() < 1.05 * share
    assert tile[:4].max() < 0.3 * 200 + 25

    limit = len(page.encode()) - len(sections[3]) // 2
    options = ["--page-mb", limit / 1e6, "--iou", 0.6]
    run(*planted, "--data", broden, "--shape", 28, "--out", "out", *options)
    small = (tmp_path / "out/page.html").read_text()
    assert len(small.encode()) <= limit and "The best 3 of 5 units" in small
    assert "IoU above 0.6" in small and small.count("class=no") == 1


def test_models_side_by_side(run, planted, broden, tmp_path):
    """A tiny HCGNet on top; then both results without computing, with a stricter IoU."""
    pytest.importorskip("matplotlib")
    run(*planted, "--data", broden, "--shape", 28, "--out", "a", "--page-mb", 0)
    assert not (tmp_path / "a/page.html").exists()
    tiny = make_model(tmp_path, "tiny", CLASSIFIER)
    out = run(
        *(*tiny, "--data", broden, "--images", 30, "--shape", 28, 32, "--compare", "a/units.json"),
        *("--workers", 1),
    )
    assert [line.split()[1] for line in out.splitlines()[-2:]] == ["tiny", "planted"]
    result = json.loads((tmp_path / "work_dirs/dissection/tiny/units.json").read_text())
    assert len(result["units"]) == 20 and result["shape"] == [28, 32] and result["images"] == 30
    assert max(unit["iou"] for unit in result["units"]) > 0
    both = ["a/units.json", "work_dirs/dissection/tiny/units.json"]
    out = run("--compare", *both, "--iou", 0.9, "--plot", "bars.png")
    assert out.splitlines()[-2].split()[-4:-1] == ["2", "of", "5"]
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def test_a_classifier_of_mmpretrain(run, broden, tmp_path):
    """With the size and the order of channels that its config has."""
    name = "mmpretrain::resnet/resnet18_8xb16_cifar10.py"
    model = build_model(load_config(name))
    torch.save(model.state_dict(), tmp_path / "resnet.pth")
    run(name, "resnet.pth", "--data", broden, "--images", 4, "--quantile", 0.1, "--page-mb", 0)
    out = tmp_path / "work_dirs/dissection/resnet18_8xb16_cifar10"
    result = json.loads((out / "units.json").read_text())
    assert result["shape"] == [32, 32] and len(result["units"]) == 512
    assert result["name"] == "resnet18_8xb16_cifar10"


def test_images_of_cifar_are_rgb(run, broden, tmp_path):
    """Without a transform that loads files, the model gets RGB; red stays red."""
    dataset = 'dict(type="CIFAR10", pipeline=[dict(type="PackInputs")])'
    config = PLANTED_CONFIG.replace("to_rgb=True", "to_rgb=False")
    config += f"test_dataloader = dict(dataset={dataset})"
    model = make_model(tmp_path, "cifar", config)
    run(*model, "--data", broden, "--shape", 28, "--out", "out")
    red, *_ = json.loads((tmp_path / "out/units.json").read_text())["units"]
    assert (red["concept"], red["iou"]) == ("red-c", 0.5625)
    tile = (tmp_path / "out/page.html").read_text().split("<section")[3].partition("base64,")[2]
    tile = np.frombuffer(base64.b64decode(tile.partition('"')[0]), np.uint8)
    blue, _, red = cv2.imdecode(tile, cv2.IMREAD_COLOR).transpose(2, 0, 1)
    assert ((red > 120) & (blue < 60)).mean() > 0.1 > ((blue > 120) & (red < 60)).mean()


@pytest.mark.parametrize(
    "layer, units",
    [("backbone.stages.0", 24), ("backbone.stages.0.0.squeeze1.conv", 32), ("neck", 8)],
)
def test_layers_of_a_detector(run, broden, tmp_path, layer, units):
    model = make_model(tmp_path, "detector", DETECTOR)
    run(
        *(*model, "--data", broden, "--images", 8, "--shape", 32, "--layer", layer),
        *("--out", "out", "--quantile", 0.02, "--page-mb", 0, "--memory", 2e-6),
    )
    result = json.loads((tmp_path / "out/units.json").read_text())
    assert len(result["units"]) == units and result["layer"] == layer
    assert result["quantile_error"] > 0  # of such a memory


def test_a_share_of_the_positions_is_told(run, planted, broden):
    out = run(
        *(*planted, "--data", broden, "--shape", 28, "--memory", 1e-6, "--page-mb", 0),
    )
    assert "Thresholds are from a random share" in out and "standard error of 0.0" in out


@pytest.mark.parametrize(
    "args, sentence",
    [
        ([], "Give CONFIG, CHECKPOINT and --data, or results to --compare."),
        (["a.py", "a.pth"], "Dissection takes CONFIG, CHECKPOINT and --data."),
        (["--compare", "no.json"], "The result no.json does not exist."),
        (["--compare", "other.json"], "other.json is not a dissection result"),
        (["--compare", "planted.py"], "The result planted.py cannot be read"),
        (["--compare", "other.json", "--iou", "4"], "--iou must be from 0 to 1"),
        (["--compare", "other.json", "--plot", "a.gif"], "--plot draws a .png, .pdf or .svg"),
        (["--compare", "no.json", "--plot", "other.json/a.png"], "a.png cannot be written"),
    ],
)
def test_mistakes_get_one_sentence(refused, planted, tmp_path, args, sentence):
    pytest.importorskip("matplotlib")
    (tmp_path / "other.json").write_text("{}")
    assert sentence in refused(*args)


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["--data", "nowhere"], "nowhere/index.csv does not exist: data must be a folder"),
        (["--images", "-1"], "images must be a number of images"),
        (["--images", "1"], "of 49 activations of a unit is less than one of them"),
        (["--quantile", "2"], "quantile must be between 0 and 1"),
        (["--memory", "0"], "--memory must be above 0"),
        (["--shape", "1", "2", "3"], "A shape is a height and a width"),
        (["--layer", "backbone.con"], "has no layer backbone.con (did you mean backbone.conv or"),
        (["--device", "cuda"], "no CUDA device"),
        (["--out", "planted.py"], "planted.py/state.npz"),
    ],
)
def test_mistakes_in_what_to_dissect(refused, planted, broden, monkeypatch, args, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    options = {"--data": broden, "--shape": 28, "--out": "out"}
    if args[0] in options:
        del options[args[0]]
    rest = [text for option in options.items() for text in option]
    assert sentence in refused(*planted, *rest, *args)


def test_layers_and_models_that_cannot_be_dissected(refused, broden, tmp_path):
    tiny, detector = (
        make_model(tmp_path, name, config)
        for name, config in dict(tiny=CLASSIFIER, detector=DETECTOR).items()
    )
    options = ["--data", broden, "--out", "out"]
    sentence = refused(*tiny, *options)
    assert "does not say how large its images are: give a shape" in sentence
    assert "gives no maps (N, C, H, W), but [1, 20]" in refused(
        *tiny, *options, "--shape", 28, "--layer", "neck"
    )
    assert "is not run as a module" in refused(
        *tiny, *options, "--shape", 28, "--layer", "backbone.stages"
    )
    assert "pads images of 28 x 28 pixels to 32 x 32: give these as the shape" in refused(
        *detector, *options, "--shape", 28
    )
    weights = torch.load(tiny[1])
    weights["state_dict"]["backbone.norm.running_mean"][0] = -10.0
    for value, sentence in ((float("nan"), "1 not finite"), (3e38, "hold NaN or inf")):
        weights["state_dict"]["backbone.norm.weight"][0] = value
        torch.save(weights, tmp_path / "broken.pth")
        assert sentence in refused(*(tiny[0], tmp_path / "broken.pth", *options, "--shape", 28))
