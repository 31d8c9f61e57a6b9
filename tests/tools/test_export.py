"""Exporting by the script, and running the files without PyTorch: equal to the inferencers."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.configs import shapes_classifier, shapes_detector
from helpers.exported import ENGINES, noise, scatter, writes_onnx
from helpers.scripts import run_new
from mmdet.apis import DetInferencer
from mmpretrain import ImageClassificationInferencer
from PIL import Image

from mmhcgnet.engine import build_model, load_config
from mmhcgnet_runtime import Predictor, RuntimeFileError, open_engine

ROOT = Path(__file__).parents[2]
SCRIPT = "deployment/export.py"
NAMES = ["cross", "ellipse", "rectangle", "star", "triangle"]
CROPPED = 'dict(type="ResizeEdge", scale=72, edge="short"), dict(type="CenterCrop", crop_size=64)'
CONFIGS = dict(
    classifier=shapes_classifier(CROPPED),
    detector=shapes_detector("rpn=dict(max_per_img=40), rcnn=dict(max_per_img=10)"),
)
SIZES = ((90, 120), (130, 100))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Configs, checkpoints and images."""
    folder = tmp_path_factory.mktemp("export")
    for name, text in CONFIGS.items():
        (folder / f"{name}.py").write_text(text)
        model = build_model(load_config(str(folder / f"{name}.py")))
        scatter(model)
        if name == "classifier":
            model.head.fc.weight.data *= 20  # or all images look the same
        meta = dict(dataset_meta=dict(classes=NAMES), epoch=1, iter=3)
        torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / f"{name}.pth")
    for i, size in enumerate(SIZES):
        Image.fromarray(noise(1, *size)[0].numpy()).save(folder / f"{i}.png")
    return folder


@pytest.fixture
def export(folder, start, monkeypatch):
    monkeypatch.chdir(folder)

    def export(name, *flags, checkpoint=None, code=0):
        return start(SCRIPT, f"{name}.py", checkpoint or f"{name}.pth", *flags, code=code)

    return export


def images(folder):
    return [str(folder / f"{i}.png") for i in range(len(SIZES))]


def runs(path, engine):
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    return Predictor(str(path), engine)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_classifier(export, folder, engine):
    writes_onnx()
    out = export("classifier", "--force", *(["--half"] if engine == "openvino" else [])).out
    assert "wrote classifier.onnx: classification" in out and "difference from PyTorch" in out
    predictor = runs("classifier.onnx", engine)
    assert predictor.classes == NAMES and predictor.facts["config"] == "classifier.py"
    inferencer = ImageClassificationInferencer("classifier.py", "classifier.pth")
    wanted = inferencer(images(folder))
    assert np.std([want["pred_scores"] for want in wanted], axis=0).max() > 0.01
    found = predictor(images(folder))
    assert not np.allclose(found[0]["scores"], found[1]["scores"], atol=1e-3)
    for each in (found, predictor(images(folder), batch_size=2)):
        for result, want in zip(each, wanted, strict=True):
            atol = 1e-2 if engine == "openvino" else 1e-4
            np.testing.assert_allclose(result["scores"], want["pred_scores"], atol=atol)
            assert result["label"] == want["pred_label"]


@pytest.mark.parametrize("engine, suffix", [("onnxruntime", ".onnx"), ("openvino", ".xml")])
def test_a_detector(export, folder, engine, suffix):
    writes_onnx()
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    out = export("detector", "--force", "-o", f"detector{suffix}").out
    assert f"wrote detector{suffix}: detection" in out
    predictor = runs(f"detector{suffix}", engine)
    inferencer = DetInferencer("detector.py", "detector.pth", show_progress=False)
    for path in images(folder):
        wanted = inferencer(path, return_datasamples=True, no_save_vis=True)
        want = wanted["predictions"][0].pred_instances.numpy()
        for image in (path, np.array(Image.open(path))):
            found = predictor(image)
            assert len(want.labels) == len(found["labels"]) > 1
            np.testing.assert_allclose(found["boxes"], want.bboxes, atol=0.02, rtol=1e-3)
            np.testing.assert_allclose(found["scores"], want.scores, atol=1e-3)
            np.testing.assert_array_equal(found["labels"], want.labels)
            assert want.masks.any() and np.mean(found["masks"] != want.masks) < 1e-3
    one, two = predictor(images(folder), batch_size=2)  # of different size
    assert one["masks"].shape[1:] == SIZES[0] and two["masks"].shape[1:] == SIZES[1]
    assert (one["boxes"] <= [120, 90, 120, 90]).all() and one["boxes"].max() > 90


def test_a_backbone(export, folder):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    export("detector", "--backbone", "-o", "maps.onnx")
    engine = open_engine("maps.onnx")
    assert engine.facts["task"] == "features"
    maps = engine(dict(images=noise(2, 64, 96).numpy()))
    assert [value.shape for value in maps.values()] == [
        (2, channels, 16 >> i, 24 >> i) for i, channels in enumerate((72, 44, 30, 23))
    ]


def test_the_example_that_stands_alone(export, folder):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    export("detector", "-o", "example.onnx")
    script = ROOT / "demo/detect_onnx.py"
    assert len(script.read_text().splitlines()) <= 40
    result = run_new(sys.executable, script, "example.onnx", "0.png", cwd=folder)
    assert result.code == 0, result.err
    found = Predictor("example.onnx")("0.png")  # which resizes as OpenCV does, and not as Pillow
    likely = [NAMES[i] for i in found["labels"][found["scores"] >= 0.3]]
    seen = [line.split()[0] for line in result.out.splitlines()]
    assert likely and seen[0] == likely[0] and abs(len(seen) - len(likely)) <= 2
    assert (folder / "objects.png").is_file()


def test_the_example_in_javascript(export, folder):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    if not (node := shutil.which("node")):
        pytest.skip("Node is not installed")
    if run_new(node, "-e", 'require("onnxruntime-web")').code:
        pytest.skip("Node does not find onnxruntime-web: npm install it, and set NODE_PATH")
    export("detector", "-o", "javascript.onnx")
    predictor = Predictor("javascript.onnx")
    # Half as large, each pixel is a mean of four, which both round alike; and padded.
    image = Image.fromarray(noise(1, 144, 192)[0].numpy())
    image.save("image.ppm")
    result = run_new(node, ROOT / "demo/detect_onnx.js", "javascript.onnx", "image.ppm")
    assert result.code == 0, result.err
    found = predictor(image)
    lines = re.findall(r"(\w+) ([\d.]+) at \[(.+)\]", result.out)
    assert len(lines) == (found["scores"] >= 0.3).sum() > 0
    for i, (name, score, box) in enumerate(lines):
        assert name == NAMES[found["labels"][i]]
        assert float(score) == pytest.approx(found["scores"][i], abs=0.006)
        box = [float(value) for value in box.split(",")]
        np.testing.assert_allclose(box, found["boxes"][i], atol=0.06)


def test_what_goes_wrong_is_said(export, folder):
    writes_onnx()
    (folder / "there.onnx").touch()
    result = export("classifier", "-o", "there.onnx", code=2)
    assert "there.onnx already exists" in result.err and "Traceback" not in result.err
    result = export("classifier", "-o", "wrong.pb", code=2)
    assert "ending in .onnx" in result.err
    result = export(
        "detector", "-o", "a.onnx", "--cfg-options", "model.roi_head.type=PISARoIHead", code=2
    )
    assert "RoI head PISARoIHead cannot be exported" in result.err
    assert not (folder / "wrong.pb").exists()


@pytest.mark.parametrize("name", ["a1.bin", "a1.xml"])
def test_no_file_is_lost(export, folder, name):
    """OpenVINO's weights go to .bin, and a checkpoint may be called that, too."""
    writes_onnx()
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    content = (folder / "classifier.pth").read_bytes()
    (folder / name).write_bytes(content)
    for flags in ((), ("--force",)):
        result = export("classifier", "--format", "openvino", *flags, checkpoint=name, code=2)
        assert f"{name} is the file that is read" in result.err
    result = export("classifier", "-o", "a1.xml", code=2)  # of another checkpoint
    assert f"{name} already exists" in result.err
    assert (folder / name).read_bytes() == content
    assert not (folder / ("a1.xml" if name == "a1.bin" else "a1.bin")).exists()
    (folder / name).unlink()


def test_a_file_of_the_config_is_not_overwritten(export, folder):
    writes_onnx()
    (folder / "own.onnx").write_text("mine")
    option = "test_dataloader.dataset.ann_file=own.onnx"
    result = export("classifier", "--force", "-o", "own.onnx", "--cfg-options", option, code=2)
    assert "own.onnx is a file that the config reads" in result.err
    assert (folder / "own.onnx").read_text() == "mine"
    (folder / "own.onnx").unlink()


@pytest.mark.parametrize("name", ["model.onnx", "model.xml"])
def test_what_differs_from_pytorch_takes_no_place(export, folder, name, monkeypatch):
    writes_onnx()
    engine = "openvino" if name.endswith(".xml") else "onnxruntime"
    pytest.importorskip(engine, reason=f"{engine} is not installed")
    monkeypatch.setattr("mmhcgnet.cli.export.difference", lambda *_: float("nan"))
    before = sorted(folder.iterdir())
    result = export("classifier", "-o", name, code=2)
    assert f"{name} was not written" in result.err and sorted(folder.iterdir()) == before
    pair = [folder / name, folder / "model.bin"]
    for file in pair:
        file.write_text("a good one")
    export("classifier", "--force", "-o", name, code=2)
    assert [file.read_text() for file in pair] == ["a good one"] * 2
    for file in pair:
        file.unlink()


def test_a_pipeline_of_another_kind(export, folder):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    (folder / "other.py").write_text(shapes_classifier('dict(type="Invert")'))
    (folder / "other.pth").write_bytes((folder / "classifier.pth").read_bytes())
    assert "prepares images by Invert" in export("other").out
    with pytest.raises(RuntimeFileError, match="by Invert"):
        Predictor("other.onnx")
    assert open_engine("other.onnx").facts["steps"] is None


def test_the_runtime_imports_nothing_of_pytorch(export, folder):
    writes_onnx()
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    export("classifier", "-o", "alone.onnx")
    code = """
import json, sys
from mmhcgnet_runtime import Predictor
result = Predictor("alone.onnx", threads=1)("0.png")
wrong = ("torch", "torchvision", "mmengine", "mmcv", "mmdet", "mmpretrain", "mmhcgnet", "cv2")
print(json.dumps([result["label"], [name for name in wrong if name in sys.modules]]))
"""
    result = run_new(sys.executable, "-c", code, cwd=folder)
    assert result.code == 0, result.err
    label, wrong = json.loads(result.out)
    assert label in range(5) and wrong == []
