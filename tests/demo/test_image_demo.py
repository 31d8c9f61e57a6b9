"""Images and videos go through a network, and what it finds comes out."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.exported import scatter, writes_onnx
from helpers.networks import write_networks
from mmdet.apis import DetInferencer
from mmpretrain import ImageClassificationInferencer
from PIL import Image, ImageDraw
from pycocotools.coco import COCO

from mmhcgnet.engine import build_model, load_config
from mmhcgnet.engine.inference import TorchPredictor

ROOT = Path(__file__).parents[2]
DEMO = "../demo/image_demo.py"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A folder with a config and a checkpoint of each kind, and images."""
    folder = tmp_path_factory.mktemp("demo")
    write_networks(folder)
    generator = np.random.default_rng(0)
    for name, size in {"a.png": (60, 80), "b.jpg": (90, 70), "more/a.png": (64, 64)}.items():
        path = folder / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
    return folder


@pytest.fixture
def demo(start, work, tmp_path, monkeypatch):
    monkeypatch.chdir(work)

    def demo(*args, code=0):
        result = start(DEMO, *args, "--out-dir", tmp_path / "out", code=code)
        found = tmp_path / "out/predictions.json"
        return result, json.loads(found.read_text()) if found.exists() else None

    return demo


def test_a_folder_through_a_detector(demo, work, tmp_path):
    result, found = demo("images", "detector.py", "detector.pth", "--score-thr", 0.0)
    assert "images: 3 in" in result.out
    drawn = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*.png")}
    assert drawn == {"a.png", "b.png", "more/a.png"}
    assert Image.open(tmp_path / "out/b.png").size == (4 * 70, 4 * 90)
    assert {record["image_id"] for record in found} == {1, 2, 3}
    # COCO's API takes it, and MMDetection's own inferencer finds the same.
    info = dict(
        images=[dict(id=i) for i in (1, 2, 3)], categories=[dict(id=i) for i in range(1, 6)]
    )
    truth = COCO()
    truth.dataset = dict(info, annotations=[])
    truth.createIndex()
    assert len(truth.loadRes(found).anns) == len(found)
    inferencer = DetInferencer("detector.py", "detector.pth", show_progress=False)
    wanted = inferencer("images/b.jpg", no_save_vis=True)["predictions"][0]
    mine = [record for record in found if record["image_id"] == 2]
    assert len(mine) == len(wanted["scores"]) > 3
    boxes = np.array(wanted["bboxes"])
    boxes[:, 2:] -= boxes[:, :2]
    np.testing.assert_allclose([record["bbox"] for record in mine], boxes, rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose([record["score"] for record in mine], wanted["scores"], rtol=1e-4)
    assert [record["category_id"] - 1 for record in mine] == wanted["labels"]


def test_a_broken_file_is_named_and_skipped(demo, work, tmp_path):
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    (mixed / "bad.png").write_bytes(b"not an image")
    (mixed / "good.png").write_bytes((work / "images/a.png").read_bytes())
    (mixed / "good.jpg").write_bytes((work / "images/b.jpg").read_bytes())
    result, found = demo(mixed, "classifier.py", "classifier.pth", "--batch-size", 2, code=1)
    assert f"skipped: The image {mixed}/bad.png cannot be read" in result.err
    assert result.err.endswith("error: 1 of 3 files were skipped, as named above.\n")
    assert [record["file_name"] for record in found] == [f"{mixed}/good.jpg", f"{mixed}/good.png"]
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"good.png", "good.png.png"}


def test_a_pattern_through_a_classifier(demo, work):
    _, found = demo("images/**/*.png", "classifier.py", "classifier.pth")
    inferencer = ImageClassificationInferencer("classifier.py", pretrained="classifier.pth")
    wanted = inferencer(["images/a.png", "images/more/a.png"])
    assert [record["file_name"] for record in found] == ["images/a.png", "images/more/a.png"]
    for record, expected in zip(found, wanted, strict=True):
        assert record["label"] == expected["pred_label"]
        assert record["name"] == expected["pred_class"]
        assert record["score"] == pytest.approx(expected["pred_score"], rel=1e-4)


def test_a_network_of_cifar_sees_rgb(work, monkeypatch):
    config = f"""
_base_ = "{ROOT}/configs/hcgnet/hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar10.py"
model = dict(
    backbone=dict(_delete_=True, type="mmhcgnet.HCGNet",
        arch=dict(depths=[1], growth_rates=[8], stem="cifar")),
    head=dict(in_channels=24),
)
"""
    (work / "cifar.py").write_text(config)
    cfg = load_config(str(work / "cifar.py"))
    model = build_model(cfg)
    scatter(model)
    torch.save(dict(meta={}, state_dict=model.state_dict()), work / "cifar.pth")
    image = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    found = TorchPredictor(cfg, str(work / "cifar.pth"))(image)
    inferencer = ImageClassificationInferencer(
        str(work / "cifar.py"), pretrained=str(work / "cifar.pth")
    )
    assert TorchPredictor(cfg, str(work / "cifar.pth")).classes[:2] == ["airplane", "automobile"]
    (wanted,) = inferencer(image)  # an array goes to the network as it is
    np.testing.assert_allclose(found["scores"], wanted["pred_scores"], rtol=1e-4)


def test_an_exported_model_finds_the_same(demo, start, work, tmp_path):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    exported = tmp_path / "model.onnx"
    start("deployment/export.py", "classifier.py", "classifier.pth", "-o", exported, code=0)
    _, wanted = demo("images", "classifier.py", "classifier.pth")
    _, found = demo("images", exported, "--engine", "onnxruntime")
    for record, expected in zip(found, wanted, strict=True):
        assert record["label"] == expected["label"]
        assert record["score"] == pytest.approx(expected["score"], rel=1e-4)


def test_the_frames_of_a_video(demo, work, tmp_path):
    path = str(tmp_path / "clip.avi")
    video = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*"MJPG"), 10, (64, 48))
    for shade in range(5):
        video.write(np.full((48, 64, 3), 40 * shade, np.uint8))
    video.release()
    result, found = demo(path, "classifier.py", "classifier.pth", "--batch-size", 2)
    assert "frames: 5 in" in result.out
    assert [record["image_id"] for record in found] == [1, 2, 3, 4, 5]
    written = cv2.VideoCapture(str(tmp_path / "out/clip.mp4"))
    assert written.get(cv2.CAP_PROP_FPS) == 10
    frames = 0
    while written.read()[0]:
        frames += 1
    assert frames == 5


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["nothing.png", "classifier.py", "classifier.pth"], "nothing.png names no file, folder"),
        ([".", "no_config", "c.pth"], "The folder . has no images"),
        (["images", "classifier.py"], "classifier.py is a config and has no weights"),
        (["images", "classifier.py", "none.pth"], "none.pth does not exist"),
        (["images", "hcgnet-b_1xb32-cosine-4e_shape", "c.pth"], "hcgnet-b_1xb32-cosine-4e_shapes"),
        (["images", "none.onnx"], "none.onnx does not exist"),
        (["images", "none.onnx", "classifier.pth"], "leave the checkpoint out"),
        (["images", "classifier.py", "--engine", "openvino"], "openvino runs exported models"),
        (["images/a.mp4", "classifier.py", "classifier.pth"], "images/a.mp4 cannot be read"),
    ],
    ids=["input", "folder", "weights", "checkpoint", "name", "file", "both", "engine", "video"],
)
def test_a_mistake_ends_in_one_sentence(demo, work, args, sentence, tmp_path, monkeypatch):
    if args[0] == ".":
        monkeypatch.chdir(tmp_path)
    result, _ = demo(*args, code=2)
    assert result.err.startswith("error: ") and sentence in result.err
    assert result.err.count("\n") == 1


def test_without_arguments_the_use_is_shown(start):
    assert "INPUT [MODEL]" in start(DEMO, code=2).err


def test_an_image_alone_is_for_the_detector_that_ships(start, tmp_path, monkeypatch):
    """Five plain figures on white, as one draws them, each found as what it is."""
    monkeypatch.chdir(tmp_path)
    image = Image.new("RGB", (640, 480), (245, 245, 240))
    pen = ImageDraw.Draw(image)
    pen.ellipse((40, 60, 220, 190), fill=(200, 60, 60))
    pen.rectangle((300, 50, 460, 160), fill=(60, 90, 200))
    pen.polygon([(90, 430), (180, 260), (270, 430)], fill=(40, 150, 70))
    spokes = [(90 if i % 2 == 0 else 38, (i / 5 - 0.5) * np.pi) for i in range(10)]
    star = [(440 + r * np.cos(angle), 330 + r * np.sin(angle)) for r, angle in spokes]
    pen.polygon(star, fill=(230, 160, 20))
    pen.rectangle((550, 200, 590, 400), fill=(90, 60, 120))
    pen.rectangle((500, 280, 635, 320), fill=(90, 60, 120))
    image.save("drawn.png")
    start(DEMO, "drawn.png", code=0)
    found = json.loads((tmp_path / "outputs/predictions.json").read_text())
    sure = [record["category_id"] for record in found if record["score"] > 0.5]
    assert sorted(sure) == [1, 2, 3, 4, 5]
    assert (tmp_path / "outputs/drawn.png").is_file()
