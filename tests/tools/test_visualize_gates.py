"""visualize_gates.py from the files to the pictures, run in this process on tiny networks."""

import functools
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.configs import classifier, detector, hcgnet
from mmengine.config import Config

from mmhcgnet.analysis.gates import cam
from mmhcgnet.analysis.gates import images as pictures
from mmhcgnet.engine.models import build_model

pytest.importorskip("matplotlib")
pytest.importorskip("pytorch_grad_cam")

ROOT = Path(__file__).parents[2]
BACKBONE = hcgnet(depths=(2, 1), stem="imagenet", out_indices=1)
COLOURS = dict(mean=(100.0,) * 3, std=(50.0,) * 3)
CLASSIFIER = f"""{classifier(BACKBONE, 48, classes=3, **COLOURS)}
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="ResizeEdge", scale=32, edge="short"),
    dict(type="PackInputs"),
]
dataset = dict(type="CustomDataset", data_prefix="nowhere", pipeline=pipeline)
test_dataloader = dict(batch_size=1, dataset=dict(type="RepeatDataset", times=1, dataset=dataset))
"""
BOTH = hcgnet(depths=(2, 1), stem="imagenet", out_indices=(0, 1))
DETECTOR = f"""{detector(BOTH, [80, 48], strides=[4, 8], **COLOURS)}
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(80, 48), keep_ratio=True),
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape")),
]
test_dataloader = dict(
    dataset=dict(type="CocoDataset", ann_file="nowhere.json", pipeline=pipeline)
)
"""


@pytest.fixture
def run(start):
    return functools.partial(start, "analysis_tools/visualize_gates.py", code=0)


@pytest.fixture
def make(tmp_path):
    """Write a config and random weights; return the paths of both."""

    def make(text, name="model"):
        config, weights = tmp_path / f"{name}.py", tmp_path / f"{name}.pth"
        config.write_text(text)
        model = build_model(Config.fromfile(config))
        torch.save(dict(state_dict=model.state_dict()), weights)
        return config, weights

    return make


@pytest.fixture
def photos(tmp_path):
    """A folder with a wide picture, a high grey one in a subfolder, and a file that is none."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    random = np.random.default_rng(0)
    cv2.imwrite(str(folder / "a.png"), random.integers(0, 255, (40, 60, 3), np.uint8))
    cv2.imwrite(str(folder / "more/a.JPG"), random.integers(0, 255, (70, 50), np.uint8))
    (folder / "notes.txt").write_text("no picture")
    return folder


def is_png(path):
    return path.read_bytes().startswith(b"\x89PNG") and cv2.imread(str(path)).std() > 5


def test_a_classifier_and_a_folder(run, make, photos, tmp_path):
    out = tmp_path / "out"
    options = ["--modules", "transitions.0", "--out-dir", out, "--raw", "--cam", "gradcam"]
    printed = run(*make(CLASSIFIER), photos, *options)
    for name, shape in (("a", (4, 6)), ("more/a", (6, 4))):
        files = {path.name for path in (out / name).glob("*.*")}
        assert files == {"gates.png", "gates.npz", "transitions.0.png", "gradcam.png"}
        assert all(is_png(path) for path in (out / name).glob("*.png"))
        with np.load(out / name / "gates.npz") as raw:
            attention, f = raw["transitions.0.attention3"], raw["transitions.0.f"]
            assert attention.shape == shape and attention.sum() == pytest.approx(1, abs=1e-5)
            assert f.shape == (40,) and 0 < f.min() and f.max() < 1
    lines = [line for line in printed.out.splitlines() if line.startswith(str(out))]
    assert len(lines) == 8 and all(Path(line).is_file() for line in lines)
    assert printed.err.startswith("1 of 2 images, ")


@pytest.mark.parametrize(
    "metainfo, title",
    [("dict(classes=('cat', 'dog', 'eel'))", "gradcam of eel, "), (None, "gradcam of class 2, ")],
)
def test_an_activation_map_tells_its_class(run, make, photos, monkeypatch, metainfo, title):
    titles, draw = [], cam.cam_figure
    monkeypatch.setattr(cam, "cam_figure", lambda *args: titles.append(args[-1]) or draw(*args))
    model = make(CLASSIFIER.replace("data_prefix=", f"metainfo={metainfo}, data_prefix="))
    run(*model, photos / "a.png", "--cam", "gradcam", "--target", 2)
    assert [text.startswith(title) for text in titles] == [True]


def test_the_backbone_of_a_detector(run, make, photos, tmp_path):
    """The network reads the padded image, 64 x 96 of 48 x 72, and the annotations are not there."""
    config, weights = make(DETECTOR)
    image = photos / "a.png"
    run(config, weights, "--out-dir", tmp_path / "out", image, "--raw", "--modules", "stages.0.1")
    assert is_png(tmp_path / "out/a/gates.png") and is_png(tmp_path / "out/a/stages.0.1.png")
    with np.load(tmp_path / "out/a/gates.npz") as raw:
        assert raw["stages.0.1.attention"].shape == (16, 24)


def test_other_classifiers_have_activation_maps_alone(run, make, photos, tmp_path):
    plain = CLASSIFIER.replace(BACKBONE, "dict(type='ResNet', depth=18)")
    config, weights = make(plain.replace("in_channels=48", "in_channels=512"))
    images = [photos / "a.png", "--out-dir", tmp_path / "out"]
    run(config, weights, *images, "--cam", "layercam", "--target", 2, "--layer", "backbone.layer2")
    assert [path.name for path in (tmp_path / "out/a").iterdir()] == ["layercam.png"]
    assert run(config, weights, *images, code=None).code


def test_lists_modules_without_weights(run, tmp_path):
    config = tmp_path / "network.py"
    config.write_text(f"model = {BACKBONE}")
    lines = run(config, "--list").out.splitlines()
    assert [line.split()[1] for line in lines[2:]] == [
        "stages.0.0", "stages.0.1", "transitions.0", "stages.1.0",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "keeps_pixels, to_rgb", [(False, True), (False, False), (True, True), (True, False)]
)
def test_colours_are_those_of_the_file(make, tmp_path, keeps_pixels, to_rgb):
    """Also for sets without files, whose images come in the order that the network wants."""
    path = tmp_path / "red.png"
    cv2.imwrite(str(path), np.full((32, 40, 3), (0, 0, 200), np.uint8))  # BGR
    text = CLASSIFIER.replace("to_rgb=True", f"to_rgb={to_rgb}")
    if keeps_pixels:
        text = text.replace('dict(type="LoadImageFromFile"),', "")
    config, _ = make(text)
    cfg = Config.fromfile(config)
    sample = pictures.make_reader(cfg, build_model(cfg))(str(path))
    assert sample.picture.shape == (32, 40, 3) and sample.picture[0, 0].tolist() == [200, 0, 0]
    means = sample.inputs.mean(dim=(1, 2)).tolist()
    rgb = to_rgb or keeps_pixels
    assert means == ([2, -2, -2] if rgb else [-2, -2, 2])


def test_images_of_one_name_get_two(tmp_path):
    for folder in ("x", "y"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.png").touch()
    (tmp_path / "x/a.jpg").touch()
    found = pictures.find_images([str(tmp_path / "x"), str(tmp_path / "y/a.png")])
    expected = {"a": "x/a.jpg", "a-2": "x/a.png", "a-3": "y/a.png"}
    assert found == {name: str(tmp_path / path) for name, path in expected.items()}


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["CONFIG"], "Give a checkpoint and images"),
        (["CONFIG", "WEIGHTS"], "Name an image"),
        (["CONFIG", "WEIGHTS", "nowhere.png"], "The image nowhere.png does not exist"),
        (["CONFIG", "nowhere.pth", "IMAGE"], "The checkpoint nowhere.pth does not exist"),
        (["nowhere.py", "WEIGHTS", "IMAGE"], "The config nowhere.py does not exist"),
        (["CONFIG", "WEIGHTS", "EMPTY"], "has no images"),
        (["CONFIG", "WEIGHTS", "BROKEN"], "cannot be read"),
        (["CONFIG", "WEIGHTS", "IMAGE", "--modules", "stages.4"], "no module 'stages.4'"),
        (["CONFIG", "WEIGHTS", "IMAGE", "--cam", "grad"], "The method grad does not exist"),
        (["CONFIG", "WEIGHTS", "IMAGE", "--target", "1"], "add --cam"),
        (["CONFIG", "WEIGHTS", "IMAGE", "--cam", "gradcam", "--target", "3"], "from 0 to 2"),
        (["DETECTOR", "DETECTOR_WEIGHTS", "IMAGE", "--cam", "gradcam"], "needs a classifier"),
        (["BARE", "BARE_WEIGHTS", "IMAGE"], "no test_dataloader"),
        (
            ["CONFIG", "WEIGHTS", "IMAGE", "--cfg-options", "model.backbone.deploy=True"],
            "remove deploy=True",
        ),
        (
            ["CONFIG", "DEPLOYED", "IMAGE", "--cfg-options", "model.backbone.deploy=True"],
            "deployed HCGNet are folded",
        ),
    ],
)
def test_mistakes_get_one_sentence(run, make, photos, tmp_path, monkeypatch, args, sentence):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken.png").write_bytes((photos / "a.png").read_bytes()[:60])
    paths = dict(IMAGE=photos / "a.png", EMPTY="empty", BROKEN="broken.png")
    paths["CONFIG"], paths["WEIGHTS"] = make(CLASSIFIER)
    if "DETECTOR" in args:
        paths["DETECTOR"], paths["DETECTOR_WEIGHTS"] = make(DETECTOR, "detector")
    if "BARE" in args:
        paths["BARE"], paths["BARE_WEIGHTS"] = make(f"model = {BACKBONE}", "bare")
    if "DEPLOYED" in args:
        text = CLASSIFIER.replace("'out_indices': 1", "'out_indices': 1, 'deploy': True")
        _, paths["DEPLOYED"] = make(text, "deployed")
    (line,) = run(*(paths.get(arg, arg) for arg in args), code=2).err.splitlines()
    assert line.startswith("error: ") and sentence in line


@pytest.mark.parametrize("package", ["matplotlib", "pytorch_grad_cam"])
def test_what_is_not_installed_is_named(run, make, photos, monkeypatch, package):
    monkeypatch.setitem(sys.modules, package, None)
    result = run(*make(CLASSIFIER), photos, "--cam", "gradcam", code=None)
    assert result.code and "pip install" in result.err


@pytest.mark.gpu
def test_on_a_gpu_as_on_a_cpu(run, make, photos, tmp_path):
    found = {}
    model = make(CLASSIFIER)
    for device in ("cpu", "cuda"):
        out = tmp_path / device
        options = ["--raw", "--cam", "gradcam", "--device", device, "--out-dir", out]
        run(*model, photos / "a.png", *options)
        with np.load(out / "a/gates.npz") as raw:
            found[device] = dict(raw)
        assert is_png(out / "a/gradcam.png")
    for name, values in found["cpu"].items():
        np.testing.assert_allclose(found["cuda"][name], values, atol=1e-3)
