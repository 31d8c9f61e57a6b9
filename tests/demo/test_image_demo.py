"""Images and videos go through a network, and what it finds comes out."""

import json
import shutil
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

from mmhcgnet.cli.images import find_images, open_predictor, predict_images, predict_video
from mmhcgnet.engine import build_model, load_config
from mmhcgnet.engine.inference import TorchPredictor
from mmhcgnet.errors import UsageError

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


def clip(path, codec="MJPG"):
    """Write a video of five frames."""
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), 10, (64, 48))
    for shade in range(5):
        video.write(np.full((48, 64, 3), 40 * shade, np.uint8))
    video.release()


def test_the_frames_of_a_video(demo, work, tmp_path):
    path = tmp_path / "clip.avi"
    clip(path)
    result, found = demo(path, "classifier.py", "classifier.pth", "--batch-size", 2)
    assert "frames: 5 in" in result.out
    assert [record["image_id"] for record in found] == [1, 2, 3, 4, 5]
    written = cv2.VideoCapture(str(tmp_path / "out/clip.mp4"))
    assert written.get(cv2.CAP_PROP_FPS) == 10
    frames = 0
    while written.read()[0]:
        frames += 1
    assert frames == 5


def test_an_image_that_is_too_thin_is_named_and_skipped(demo, work, tmp_path):
    mixed = tmp_path / "thin"
    mixed.mkdir()
    for name, shape in {"a.png": (60, 80), "b.png": (1, 5000), "c.png": (60, 80)}.items():
        Image.fromarray(np.zeros((*shape, 3), np.uint8)).save(mixed / name)
    result, found = demo(
        mixed, "detector.py", "detector.pth", "--batch-size", 3, "--score-thr", 0, code=1
    )
    (line,) = (line for line in result.err.splitlines() if line.startswith("skipped"))
    assert line.startswith(f"skipped: The image {mixed}/b.png cannot be predicted: error: OpenCV")
    assert result.err.endswith("error: 1 of 3 files were skipped, as named above.\n")
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == {"a.png", "c.png"}
    assert {record["image_id"] for record in found} == {1, 3}


class OneClass:
    """A classifier, which may be interrupted by an image."""

    classes = ("a",)

    def __init__(self, interrupted_by=None):
        self.seen, self.interrupted_by = 0, interrupted_by

    def __call__(self, images, batch_size=1):
        self.seen += len(images)
        if self.seen == self.interrupted_by:
            raise KeyboardInterrupt
        return [dict(scores=np.ones(1), label=0) for _ in images]


def test_what_was_predicted_before_the_end_is_kept(work, tmp_path):
    files = find_images(str(work / "images"))
    with pytest.raises(KeyboardInterrupt):
        predict_images(OneClass(3), files, tmp_path / "out", 0.3, 1)
    clip(tmp_path / "clip.avi")
    with pytest.raises(KeyboardInterrupt):
        predict_video(OneClass(3), str(tmp_path / "clip.avi"), tmp_path / "video", 0.3, 1)
    for folder in ("out", "video"):
        found = json.loads((tmp_path / folder / "predictions.json").read_text())
        assert [record["image_id"] for record in found] == [1, 2]
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "a.png", "b.png", "predictions.json"
    }  # fmt: skip
    assert cv2.VideoCapture(str(tmp_path / "video/clip.mp4")).get(cv2.CAP_PROP_FRAME_COUNT) == 2


def contents(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("source", ["", "a.png", "more/a.png", "*.[pj]*"])
def test_no_image_is_overwritten(work, tmp_path, source):
    images = tmp_path / "images"
    shutil.copytree(work / "images", images)
    out = images / "more" if source.startswith("more") else images
    (images / "predictions.json").write_text("mine")
    if source == "*.[pj]*":
        (images / "a.png").unlink()  # that leaves b.jpg, drawn as b.png, and the JSON
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="is one of the inputs and would be overwritten: name"):
        predict_images(OneClass(), find_images(str(images / source)), out, 0.3, 1)
    assert contents(tmp_path) == before


def test_a_second_run_does_not_draw_the_results_of_the_first(work, tmp_path):
    images = tmp_path / "images"
    shutil.copytree(work / "images", images)
    for _ in range(2):
        files = find_images(str(images), images / "out")
        assert [file.name for file in files] == ["a.png", "b.jpg", "a.png"]
        predict_images(OneClass(), files, images / "out", 0.3, 1)
    assert find_images(str(images / "out/more"), images / "out") == [images / "out/more/a.png"]


def test_no_image_is_overwritten_through_a_link(work, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.png").symlink_to(work / "images/a.png")
    with pytest.raises(UsageError, match="out/a.png is one of the inputs"):
        predict_images(OneClass(), [work / "images/a.png"], tmp_path / "out", 0.3, 1)
    # Other files are those of an earlier run, and are replaced.
    (tmp_path / "out/a.png").unlink()
    (tmp_path / "out/a.png").touch()
    assert predict_images(OneClass(), [work / "images/a.png"], tmp_path / "out", 0.3, 1) == []
    assert Image.open(tmp_path / "out/a.png").size == (5 * 80, 5 * 60)


def test_no_video_is_overwritten(tmp_path):
    clip(tmp_path / "clip.mp4", "mp4v")
    before = contents(tmp_path)
    with pytest.raises(UsageError, match="clip.mp4 is one of the inputs and would be overwritten"):
        predict_video(OneClass(), str(tmp_path / "clip.mp4"), tmp_path, 0.3, 1)
    assert contents(tmp_path) == before


def test_a_video_that_cannot_be_written(tmp_path):
    clip(tmp_path / "clip.avi")
    (tmp_path / "out/clip.mp4").mkdir(parents=True)
    with pytest.raises(UsageError, match="OpenCV cannot write .*out/clip.mp4: make sure"):
        predict_video(OneClass(), str(tmp_path / "clip.avi"), tmp_path / "out", 0.3, 1)
    assert not (tmp_path / "out/predictions.json").exists()


def test_a_file_of_a_backbone_is_not_opened(tmp_path, monkeypatch):
    class Backbone:
        def __init__(self, path, engine):
            self.facts = dict(task="features")

    monkeypatch.setattr("mmhcgnet.cli.images.Predictor", Backbone)
    with pytest.raises(UsageError, match="maps.onnx is a backbone, .*: export the whole network"):
        open_predictor("maps.onnx", None, "cpu", None)


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


def test_where_nothing_can_be_written_nothing_is_predicted(start, work, tmp_path, monkeypatch):
    monkeypatch.chdir(work)
    monkeypatch.setattr("mmhcgnet.cli.images.predict_images", None)
    (tmp_path / "file").touch()
    args = ("images/a.png", "detector.py", "detector.pth", "--out-dir", tmp_path / "file")
    assert "file/predictions.json cannot be written" in start(DEMO, *args, code=2).err


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
