"""Images and masks as the MM toolboxes have them, without OpenCV and PyTorch."""

import cv2
import mmcv
import numpy as np
import pytest
import torch
from mmcv.transforms import CenterCrop, Resize
from mmdet.models.roi_heads.mask_heads.fcn_mask_head import _do_paste_mask
from mmpretrain.datasets.transforms import ResizeEdge
from PIL import Image

from mmhcgnet_runtime import Predictor, RuntimeFileError, open_engine
from mmhcgnet_runtime.images import prepare, read, resize
from mmhcgnet_runtime.masks import paste


def picture(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize(
    "size", [(40, 30), (80, 60), (20, 15), (57, 91), (13, 7), (1, 1), (160, 33)]
)
def test_resizing_is_that_of_mmcv(size, backend):
    image = picture(30, 40)
    wanted = mmcv.imresize(image, size, interpolation="bilinear", backend=backend)
    found = resize(image, size, "bilinear", backend)
    assert found.dtype == np.uint8 and found.shape == wanted.shape
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize(
    "transform, step",
    [
        (
            Resize(scale=(100, 60), keep_ratio=True),
            dict(kind="resize", size=[100, 60], keep_ratio=True),
        ),
        (Resize(scale=(33, 21)), dict(kind="resize", size=[33, 21], keep_ratio=False)),
        (ResizeEdge(scale=50), dict(kind="resize_edge", size=50, edge="short")),
        (ResizeEdge(scale=50, edge="long"), dict(kind="resize_edge", size=50, edge="long")),
        (ResizeEdge(scale=50, edge="width"), dict(kind="resize_edge", size=50, edge="width")),
        (ResizeEdge(scale=50, edge="height"), dict(kind="resize_edge", size=50, edge="height")),
        (CenterCrop(crop_size=(20, 90)), dict(kind="center_crop", size=[20, 90])),
    ],
    ids=["ratio", "size", "short", "long", "width", "height", "crop"],
)
@pytest.mark.parametrize("shape", [(45, 81), (80, 45), (31, 31)])
def test_steps_are_those_of_the_toolboxes(transform, step, shape):
    image = picture(*shape)
    wanted = transform(dict(img=image, img_shape=shape))["img"]
    found = prepare(image, [dict(dict(interpolation="bilinear", backend="cv2"), **step)])
    assert found.shape == wanted.shape
    assert np.array_equal(found, wanted)


def test_masks_are_pasted_as_in_mmdetection():
    generator = np.random.default_rng(0)
    masks = generator.random((40, 28, 28), dtype=np.float32)
    corners = generator.uniform(-20, 90, (40, 2))
    boxes = np.concatenate([corners, corners + generator.uniform(0.5, 60, (40, 2))], axis=1)
    boxes = boxes.astype(np.float32)
    inside, _ = _do_paste_mask(
        torch.from_numpy(masks)[:, None], torch.from_numpy(boxes), 70, 100, skip_empty=False
    )
    wanted = inside.numpy()
    found = paste(masks, boxes, (70, 100), 0.5)
    clear = np.abs(wanted - 0.5) > 1e-4  # what rounding does not decide
    assert wanted.any() and np.array_equal(found[clear], (wanted >= 0.5)[clear])
    assert not paste(masks[:1], np.full((1, 4), 5.0), (9, 9)).any()
    assert paste(masks[:0], boxes[:0], (9, 8)).shape == (0, 9, 8)


def test_images_of_every_kind(tmp_path, monkeypatch):
    image = picture(6, 9)
    Image.fromarray(image).save(tmp_path / "image.png")
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned
    Image.fromarray(image).save(tmp_path / "turned.png", exif=exif)
    for given in (image, Image.fromarray(image), tmp_path / "image.png"):
        assert np.array_equal(read(given), image)
    assert np.array_equal(read(str(tmp_path / "turned.png")), np.rot90(image, -1))
    assert read(image[..., 0]).shape == (6, 9, 3)
    (tmp_path / "text.png").write_text("no image")
    for wrong in (image.astype(float), image[..., :2], np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(RuntimeFileError, match="uint8 of height x width x 3"):
            read(wrong)
    with pytest.raises(RuntimeFileError, match="cannot be read"):
        read(tmp_path / "text.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)  # Pillow refuses twice as many
    with pytest.raises(RuntimeFileError, match="cannot be read: .*decompression bomb"):
        read(tmp_path / "image.png")
    with pytest.raises(FileNotFoundError):
        read("nowhere.png")


def depths(folder):
    """Files of 16 bits, in the modes and byte orders that Pillow has for them."""
    ramp = np.linspace(0, 65535, 24 * 32).astype(np.uint16).reshape(24, 32)
    Image.fromarray(ramp).save(folder / "grey.png")
    Image.fromarray(ramp).save(folder / "grey.tif")
    big = Image.frombytes("I;16B", (32, 24), ramp.astype(">u2").tobytes())
    big.save(folder / "big-endian.tif")
    (folder / "grey.pgm").write_bytes(b"P5 32 24 65535\n" + ramp.astype(">u2").tobytes())
    cv2.imwrite(str(folder / "colour.png"), np.stack([ramp, ramp[::-1], ramp[:, ::-1]], axis=2))
    return sorted(folder.iterdir())


def test_16_bits_become_8_as_in_opencv(tmp_path):
    files = depths(tmp_path)
    assert len(files) == 5
    for path in files:
        assert np.array_equal(read(path), cv2.imread(str(path))[..., ::-1]), path
        with Image.open(path) as opened:
            assert np.array_equal(read(opened), read(path)), path
    exif = Image.Exif()
    exif[0x0112] = 6
    with Image.open(tmp_path / "grey.png") as opened:
        opened.save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(read(tmp_path / "turned.png"), np.rot90(read(tmp_path / "grey.png"), -1))


@pytest.mark.parametrize("kind", [np.int32, np.float32])
def test_32_bits_have_no_scale(tmp_path, kind):
    image = Image.fromarray(np.arange(20, dtype=kind).reshape(4, 5))
    image.save(tmp_path / "a.tif")
    for given, name in (
        (image, "The image "),
        (tmp_path / "a.tif", f"The image {tmp_path}/a.tif "),
    ):
        with pytest.raises(RuntimeFileError, match="save it with 8 or 16 bits") as error_info:
            read(given)
        assert str(error_info.value).startswith(f"{name}cannot be read: its values are of 32 bits")


@pytest.mark.parametrize(
    "step",
    [
        dict(kind="resize", size=[100, 60], keep_ratio=True),
        dict(kind="resize_edge", size=100, edge="long"),
    ],
    ids=["resize", "resize_edge"],
)
@pytest.mark.parametrize("backend", ["cv2", "pillow"])
@pytest.mark.parametrize("shape", [(1, 900), (900, 1)])
def test_a_side_has_at_least_one_pixel(step, backend, shape):
    found = prepare(picture(*shape), [dict(step, interpolation="bilinear", backend=backend)])
    assert sorted(found.shape[:2]) == [1, 100]


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(FileNotFoundError):
        open_engine("nowhere.onnx")
    (tmp_path / "model.onnx").write_text("no model")
    (tmp_path / "model.pth").touch()
    with pytest.raises(RuntimeFileError, match="ends in .onnx or .xml"):
        open_engine(str(tmp_path / "model.pth"))
    with pytest.raises(RuntimeFileError, match="choose onnxruntime or openvino"):
        open_engine(str(tmp_path / "model.onnx"), "tensorrt")
    pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    with pytest.raises(RuntimeFileError, match="cannot read"):
        open_engine(str(tmp_path / "model.onnx"), "onnxruntime")


@pytest.fixture
def doubling(tmp_path):
    """A file that doubles, with as little about itself as is taken for an exported model."""
    onnx = pytest.importorskip("onnx", reason="onnx is not installed, which writes the file")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    sides = [helper.make_tensor_value_info(name, real, [2]) for name in ("images", "scores")]
    node = helper.make_node("Add", ["images", "images"], ["scores"])
    graph = helper.make_graph([node], "doubling", sides[:1], sides[1:])
    opset = helper.make_opsetid("", 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9)
    helper.set_model_props(model, {"mmhcgnet": '{"task": "classification", "steps": []}'})
    onnx.save(model, str(tmp_path / "doubling.onnx"))
    return str(tmp_path / "doubling.onnx")


def doubles(engine):
    return engine(dict(images=np.array([1, 2], np.float32)))["scores"].tolist() == [2, 4]


def test_providers_are_those_of_onnx_runtime(doubling, monkeypatch):
    runtime = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    for providers in (
        runtime.get_available_providers(),
        [("CPUExecutionProvider", {"use_arena": "0"})],
    ):
        engine = open_engine(doubling, providers=providers)
        names = [name if isinstance(name, str) else name[0] for name in providers]
        assert engine._session.get_providers() == names and doubles(engine)
    with pytest.raises(RuntimeFileError, match="has no MoonExecutionProvider here, but .*CPU"):
        Predictor(doubling, providers=["MoonExecutionProvider", "CPUExecutionProvider"])
    # One whose libraries are missing is said to be there, and is left out of the session.
    there = ["CUDAExecutionProvider", *runtime.get_available_providers()]
    monkeypatch.setattr(runtime, "get_available_providers", lambda: there)
    if "CUDAExecutionProvider" not in there[1:]:
        with pytest.raises(RuntimeFileError, match="has no CUDAExecutionProvider here, but .*CPU"):
            open_engine(doubling, providers=["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(RuntimeFileError, match="choose one"):
        open_engine(doubling, "openvino", providers=["CPUExecutionProvider"])


def test_the_device_is_one_of_openvino(doubling):
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    engine = open_engine(doubling, device="AUTO")
    assert "CPU" in engine._models[None].get_property("MULTI_DEVICE_PRIORITIES")  # AUTO's own
    assert doubles(engine)
    with pytest.raises(RuntimeFileError, match="openvino cannot read .*MOON"):
        Predictor(doubling, device="MOON")
    with pytest.raises(RuntimeFileError, match="choose one"):
        open_engine(doubling, "onnxruntime", device="CPU")
