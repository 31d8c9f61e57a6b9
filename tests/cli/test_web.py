"""What the page does, without the page; and no failure is more than a sentence."""

import io
import os
import zlib

import numpy as np
import pytest
from helpers.exported import ENGINES, writes_onnx
from helpers.networks import write_networks
from PIL import Image

from mmhcgnet.cli import web
from mmhcgnet.engine.configs import config_in
from mmhcgnet.errors import UsageError
from mmhcgnet_runtime import draw

CLASSIFIER, DETECTOR = "classifier, classifier.pth", "detector, detector.pth"


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    folder = tmp_path_factory.mktemp("web")
    write_networks(folder)
    noise = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "noise.png")
    return folder


@pytest.fixture(scope="module")
def networks(work):
    words = [
        work / f"{kind}.{suffix}" for kind in ("classifier", "detector") for suffix in ("py", "pth")
    ]
    return web.find_networks(list(map(str, words)))


@pytest.fixture
def callbacks(networks, tmp_path):
    return web.Callbacks(networks, str(tmp_path))


def test_what_a_command_line_names(work, tmp_path):
    (tmp_path / "a.onnx").touch()
    (tmp_path / "b.xml").touch()
    words = [tmp_path, work / "detector.py", work / "detector.pth", tmp_path / "a.onnx"]
    found = web.find_networks(list(map(str, words)))
    assert list(found) == ["a.onnx", "b.xml", DETECTOR, str(tmp_path / "a.onnx")]
    assert found[DETECTOR].engines[0] == web.TORCH
    assert web.TORCH not in found["a.onnx"].engines + found["b.xml"].engines
    assert "ONNX Runtime" not in found["b.xml"].engines


def test_the_networks_that_ship(work):
    small = "mask-rcnn_hcgnet-small_fpn-light_scratch_8e_shapes"
    assert small in web.find_networks([])
    assert list(web.find_networks([small])) == [small]
    pair = [small, str(work / "detector.pth")]
    assert list(web.find_networks(pair)) == [f"{small}, detector.pth"]


def test_a_package_without_weights_asks_for_a_network(monkeypatch):
    monkeypatch.setattr(web, "shipped_weights", lambda name: None)
    with pytest.raises(UsageError, match="Name a network"):
        web.find_networks([])


def test_the_folder_of_a_training(work, tmp_path):
    for name in ("config.py", "epoch_1.pth", "epoch_2.pth", "epoch_10.pth"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (1, 1))
    os.utime(tmp_path / "epoch_2.pth", (2, 2))
    assert list(web.find_networks([str(tmp_path)])) == ["config, epoch_2.pth"]
    (tmp_path / "last_checkpoint").write_text("/where/it/was/epoch_10.pth")
    assert list(web.find_networks([str(tmp_path)])) == ["config, epoch_10.pth"]


def test_what_is_no_config_of_the_training(tmp_path):
    """Metrics, the copy of a test and programs, all of them newer."""
    files = dict(
        config="model = dict(type='A')",
        test_config="model = dict(type='WithAugmentation')",
        helper="raise SystemExit('it was run')",
    )
    for time, (name, text) in enumerate(files.items(), 1):
        (tmp_path / f"{name}.py").write_text(text)
        os.utime(tmp_path / f"{name}.py", (time, time))
    (tmp_path / "metrics.json").write_text('{"accuracy/top1": 90.0}')
    (tmp_path / "a.pth").touch()
    assert list(web.find_networks([str(tmp_path)])) == ["config, a.pth"]
    (tmp_path / "config.py").unlink()
    assert list(web.find_networks([str(tmp_path)])) == ["test_config, a.pth"]


@pytest.mark.parametrize(
    "name, text",
    [
        ("a.json", '{"optim": 1, "model": {"type": "A"}}'),
        ("a.yaml", "optim: 1\nmodel:\n  type: A\n"),
        ("a.py", "_base_ = './b.py'\n"),
        ("a.py", "with read_base():\n    from .b import *\n"),
        ("test_a.py", "model = dict()"),
    ],
    ids=["json", "yaml", "base", "read_base", "test"],
)
def test_the_config_of_a_training_in_any_form(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    for newer in ("metrics.json", f"test_{name}"):
        (tmp_path / newer).write_text('{"accuracy": 1}' if newer == "metrics.json" else text)
        os.utime(tmp_path / name, (1, 1))
    assert config_in(str(tmp_path)) == str(tmp_path / name)


@pytest.mark.parametrize(
    "words, sentence",
    [
        (["EMPTY"], "has neither exported models nor a config"),
        (["hcgnet-b_1xb32-cosine-4e_shapes"], "name a checkpoint after it"),
        (
            ["hcgnet-b_1xb32-cosine-4e_shape", "a.pth"],
            "did you mean hcgnet-b_1xb32-cosine-4e_shapes",
        ),
        (["hcgnet-b_1xb32-cosine-4e_shapes", "none.pth"], "none.pth does not exist"),
        (["none.onnx"], "none.onnx does not exist"),
    ],
    ids=["folder", "weights", "name", "checkpoint", "file"],
)
def test_a_command_line_with_a_mistake(words, sentence, tmp_path):
    with pytest.raises(UsageError, match=sentence):
        web.find_networks([str(tmp_path) if word == "EMPTY" else word for word in words])


def test_objects_and_the_threshold(callbacks, work):
    found = callbacks.predict(str(work / "noise.png"), DETECTOR, web.TORCH)
    scores = found.result["scores"]
    assert len(scores) > 2 and min(scores) < max(scores)
    between = float(scores[0] + scores[-1]) / 2
    drawn, sentence = callbacks.show(found, between)
    expected = draw(np.array(Image.open(work / "noise.png")), found.result, list("abcde"), between)
    assert np.array_equal(drawn, expected)
    number = (scores >= between).sum()
    assert sentence.startswith(f"{number} object") and "For 80 × 60 pixels: PyTorch " in sentence
    _, sentence = callbacks.show(found, 1.0)
    assert sentence.startswith(
        f"No object has a score of 1.00 or more; the best is {scores[0]:.2f}."
    )


def test_classes(callbacks, work):
    found = callbacks.predict(str(work / "noise.png"), CLASSIFIER, web.TORCH)
    label = int(found.result["scores"].argmax())
    drawn, sentence = callbacks.show(found, 0.9)
    assert sentence.startswith(
        f"{'abcde'[label]}, with a score of {max(found.result['scores']):.2f}."
    )
    assert drawn.shape == (300, 400, 3)


def test_each_engine_finds_the_same_and_is_timed(callbacks, work):
    writes_onnx()
    network = callbacks.networks[CLASSIFIER]
    if len(network.engines) == 1:
        pytest.skip(f"none of {ENGINES} is installed")
    wanted = callbacks.predict(str(work / "noise.png"), CLASSIFIER, web.TORCH)
    for engine in network.engines:
        found = callbacks.predict(str(work / "noise.png"), CLASSIFIER, engine)
        np.testing.assert_allclose(found.result["scores"], wanted.result["scores"], rtol=1e-3)
    assert all(f"{engine} " in found.about for engine in network.engines)
    assert "PyTorch" not in callbacks.predict(str(work / "noise.png"), DETECTOR, engine).about


def test_where_the_gates_look(callbacks, work):
    pytest.importorskip("matplotlib")
    path = str(work / "noise.png")
    figure, problem = callbacks.show_gates(path, CLASSIFIER, web.TORCH, True)
    assert figure.ndim == 3 and figure.shape[2] == 3 and figure.dtype == np.uint8 and not problem
    assert callbacks.show_gates(path, CLASSIFIER, "ONNX Runtime", True) == (None, "")
    assert callbacks.show_gates(path, CLASSIFIER, web.TORCH, False) == (None, "")
    assert callbacks.show_gates(None, CLASSIFIER, web.TORCH, True) == (None, "")


def test_large_images_are_made_smaller(work, tmp_path):
    path = tmp_path / "wide.png"
    Image.new("L", (3000, 300), 7).save(path)
    image = web.read_upload(str(path))
    assert image.shape == (205, 2048, 3) and (image == 7).all()


def test_the_depth_of_an_upload(tmp_path):
    ramp = np.linspace(0, 65535, 40 * 30).astype(np.uint16).reshape(30, 40)
    Image.fromarray(ramp).save(tmp_path / "a.png")
    assert np.array_equal(web.read_upload(str(tmp_path / "a.png"))[..., 0], ramp >> 8)
    Image.fromarray(ramp.astype(np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UsageError, match="a.tif has values of 32 bits: choose"):
        web.read_upload(str(tmp_path / "a.tif"))


def test_photographs_are_turned(tmp_path):
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    Image.new("RGB", (40, 30)).save(tmp_path / "turned.jpg", exif=exif)
    assert web.read_upload(str(tmp_path / "turned.jpg")).shape == (40, 30, 3)


@pytest.fixture
def broken(tmp_path):
    """Files that are not shown, and how what is said of each begins."""
    generator = np.random.default_rng(0)
    good = io.BytesIO()
    Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(good, "PNG")
    data = good.getvalue()
    # Width and height are in the header, whose checksum comes after it.
    header = data[12:16] + (60_000).to_bytes(4, "big") * 2 + data[24:29]
    bomb = data[:12] + header + zlib.crc32(header).to_bytes(4, "big") + data[33:]
    contents = {
        "text.png": (b"no image", "text.png is not an image that can be read here"),
        "empty.jpg": (b"", "empty.jpg is not an image"),
        "script.eps": (b"%!PS-Adobe-3.0\n%%BoundingBox: 0 0 9 9\n", "script.eps is not an image"),
        "torn.png": (data[: len(data) // 2], "torn.png is damaged"),
        "bomb.png": (bomb, "bomb.png has too many pixels"),
    }
    for name, (content, _) in contents.items():
        (tmp_path / name).write_bytes(content)
    return {tmp_path / name: sentence for name, (_, sentence) in contents.items()}


def test_what_cannot_be_read_is_a_sentence(callbacks, broken, tmp_path):
    for path, sentence in broken.items():
        for problem in (
            callbacks.predict(str(path), CLASSIFIER, web.TORCH),
            callbacks.show_gates(str(path), CLASSIFIER, web.TORCH, True)[1],
        ):
            assert problem.startswith(sentence) and "\n" not in problem
            assert str(tmp_path) not in problem
        assert callbacks.show(problem, 0.5) == (None, problem)


def test_too_many_bytes_or_pixels(tmp_path, monkeypatch):
    monkeypatch.setattr(web, "MOST_PIXELS", 2_000_000)
    Image.new("1", (2001, 1000)).save(tmp_path / "huge.png")
    with pytest.raises(UsageError, match="huge.png has 2001 × 1000 pixels, more than 2 million"):
        web.read_upload(str(tmp_path / "huge.png"))
    Image.new("1", (2000, 1000)).save(tmp_path / "fits.png")
    assert web.read_upload(str(tmp_path / "fits.png")).shape == (1000, 2000, 3)
    with open(tmp_path / "long.png", "wb") as file:
        file.truncate(web.MOST_BYTES + 1)
    with pytest.raises(UsageError, match="long.png is larger than 20 MB"):
        web.read_upload(str(tmp_path / "long.png"))


def test_a_network_that_cannot_be_opened(callbacks, work, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"bad")
    (tmp_path / "bad.pth").write_bytes(b"bad")
    words = [tmp_path / "bad.onnx", work / "detector.py", tmp_path / "bad.pth"]
    bad = web.Callbacks(web.find_networks(list(map(str, words))), str(tmp_path))
    for name, network in bad.networks.items():
        problem = bad.predict(str(work / "noise.png"), name, network.engines[0])
        assert "bad." in problem and "cannot" in problem and "\n" not in problem
    assert "does not run with Abacus" in callbacks.predict(
        str(work / "noise.png"), CLASSIFIER, "Abacus"
    )


def test_what_nobody_expected_is_a_sentence_and_in_the_log(callbacks, work, monkeypatch, caplog):
    def fail(*args):
        raise ZeroDivisionError("secret")

    monkeypatch.setattr(web, "read_upload", fail)
    problem = callbacks.predict(str(work / "noise.png"), CLASSIFIER, web.TORCH)
    assert problem == "That failed unexpectedly (ZeroDivisionError): the terminal says where."
    assert "secret" in caplog.text
    monkeypatch.setattr(web, "read_upload", lambda path: [][0])
    assert "IndexError" in callbacks.show_gates("a.png", CLASSIFIER, web.TORCH, True)[1]


def test_without_gradio_one_is_told_so(networks, monkeypatch):
    monkeypatch.setattr(web, "find_spec", lambda name: None)
    with pytest.raises(UsageError, match=r"pip install 'mmhcgnet\[demo\]'"), web.serve(networks):
        pass
