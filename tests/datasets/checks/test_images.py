import os
import struct
import zlib

import numpy as np
import pytest
from helpers.inspected import kinds, noise
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import TRANSFORMS
from PIL import Image

from mmhcgnet.datasets.checks.findings import EXAMPLES, Finding, merge
from mmhcgnet.datasets.checks.images import (
    PipelineLoader,
    inspect_image,
    inspect_images,
    inspect_listing,
    loads_by_default,
)


@pytest.mark.parametrize(
    "mode, kind",
    [("RGB", "PNG"), ("L", "PNG"), ("P", "PNG"), ("RGBA", "PNG"), ("RGB", "JPEG"), ("L", "BMP")],
)
def test_good_images_pass(tmp_path, mode, kind):
    path = noise(tmp_path / "a", mode, kind)
    assert inspect_image(path, (20, 30)) == []


@pytest.mark.parametrize("read", [True, False])
def test_an_image_that_ends_early_is_found_also_where_opencv_reads_it(tmp_path, monkeypatch, read):
    path = noise(tmp_path / "a.jpg", kind="JPEG", quality=95)
    content = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(content[: len(content) * 9 // 10])
    # As some of its versions do, others do not.
    image = np.zeros((20, 30, 3), np.uint8) if read else None
    monkeypatch.setattr("cv2.imdecode", lambda *_: image)
    (found,) = inspect_image(path)
    assert found.kind == ("damaged image" if read else "undecodable image")
    assert not found.harmless and "truncated" in found.sentence


@pytest.mark.parametrize(
    "content, kind",
    [
        (b"", "empty image"),
        (b"<html>404</html>", "undecodable image"),
        (bytes(1000), "undecodable image"),
    ],
)
def test_what_is_no_image_is_found(tmp_path, content, kind):
    (tmp_path / "a.png").write_bytes(content)
    assert kinds(inspect_image(str(tmp_path / "a.png"))) == {kind: 1}


def test_what_is_no_file_is_found_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    os.symlink("gone", tmp_path / "link")
    found = {
        name: inspect_image(str(tmp_path / name))[0].examples[0]
        for name in ("pipe", "link", "absent", ".")
    }
    ends = dict(pipe="is a pipe or device, not an image", link="is a link to what does not exist")
    ends |= {"absent": "does not exist", ".": "is a folder, not an image"}
    for name, end in ends.items():
        assert found[name].startswith(str(tmp_path)) and found[name].endswith(end)
    assert kinds(inspect_image("a\0b.png")) == {"unreadable image": 1}


def test_an_image_of_16_bits_is_harmless(tmp_path):
    array = np.random.default_rng(0).integers(0, 2**16, (20, 30), dtype=np.uint16)
    Image.fromarray(array).save(tmp_path / "a.png")
    found = inspect_image(str(tmp_path / "a.png"))
    assert kinds(found, harmless=True) == {"image of more than 8 bits": 1} and len(found) == 1


def test_cmyk_is_harmless(tmp_path):
    found = inspect_image(noise(tmp_path / "a.jpg", "CMYK", "JPEG"))
    assert kinds(found, harmless=True) == {"CMYK image": 1} and len(found) == 1


def test_the_size_is_the_one_after_the_rotation_of_the_camera(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    path = noise(tmp_path / "a.jpg", kind="JPEG", exif=exif)
    assert inspect_image(path, (30, 20)) == []
    (found,) = inspect_image(path, (20, 30))
    assert "is 20 wide and 30 high, but its annotations say 30 and 20" in found.sentence


def test_many_images_keep_their_order_whatever_the_workers(tmp_path):
    items = [(noise(tmp_path / f"{i}.png"), None) for i in range(20)]
    (tmp_path / "7.png").write_bytes(b"")
    alone, shared = (list(inspect_images(items, workers)) for workers in (0, 2))
    assert alone == shared and [i for i, found in enumerate(alone) if found] == [7]


def test_a_listing_finds_what_is_not_there_and_opens_nothing(tmp_path):
    noise(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes(b"")
    os.symlink("a.png", tmp_path / "c.png")
    os.mkfifo(tmp_path / "d.png")
    paths = [str(tmp_path / f"{name}.png") for name in "abcde"] + [str(tmp_path / "no/f.png")]
    assert kinds(inspect_listing(paths)) == {"image that is no file": 1, "missing image": 2}


def test_findings_of_a_kind_are_counted_and_some_shown():
    found = merge(Finding("empty", [f"{i}.png is empty"], "fix it") for i in range(9))
    assert (found[0].count, len(found[0].examples)) == (9, EXAMPLES) and len(found) == 1
    assert found[0].sentence == "0.png is empty (and 8 more like it): fix it."


@pytest.mark.parametrize("size", [(30_000, 30_000), (20_000, 1), (1, 1001)])
def test_an_extreme_image_is_found_by_its_header_alone(tmp_path, monkeypatch, size):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    width, height = size
    path = tmp_path / "a.png"
    header = struct.pack(">2L5B", width, height, 1, 0, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")]
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">L", len(data)) + kind + data + struct.pack(">L", zlib.crc32(kind + data))
            for kind, data in chunks
        )
    )
    (finding,) = inspect_image(str(path))
    assert finding.kind == "image of extreme size" and not finding.harmless
    assert f"{width:,} x {height:,} pixels" in finding.sentence


def test_long_images_of_usual_kinds_pass(tmp_path):
    noise(tmp_path / "a.png", size=(2000, 2))
    assert inspect_image(str(tmp_path / "a.png")) == []


class Load:
    """Reads arrays and refuses others."""

    def __call__(self, results):
        with open(results["img_path"], "rb") as file:
            return dict(results, img=np.load(file))


def test_images_are_read_as_the_pipeline_reads_them(tmp_path):
    array = np.zeros((20, 30, 7), np.float32)
    np.save(tmp_path / "a.npy", array)
    (tmp_path / "b.npy").write_bytes(b"text")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    noise(tmp_path / "c.jpg", kind="JPEG", exif=exif)
    loader = PipelineLoader([{}], lambda cfg: Load())
    assert inspect_image(str(tmp_path / "a.npy"), (20, 30), loader) == []
    assert kinds(inspect_image(str(tmp_path / "a.npy"), (30, 20), loader)) == {
        "image of another size": 1
    }
    (found,) = inspect_image(str(tmp_path / "b.npy"), None, loader)
    assert "cannot be read as an image (ValueError" in found.sentence

    stock = dict(type="LoadImageFromFile", color_type="color_ignore_orientation")
    assert not loads_by_default(stock) and loads_by_default(dict(type=LoadImageFromFile))
    loader = PipelineLoader([stock], TRANSFORMS.build)
    assert inspect_image(str(tmp_path / "c.jpg"), (20, 30), loader) == []
    assert kinds(inspect_image(str(tmp_path / "c.jpg"), (20, 30))) == {"image of another size": 1}
    content = (tmp_path / "c.jpg").read_bytes()
    (tmp_path / "c.jpg").write_bytes(content[: len(content) // 8])
    assert kinds(inspect_image(str(tmp_path / "c.jpg"), None, loader), harmless=False)


def test_images_that_only_a_data_set_can_load_are_not_judged(tmp_path):
    class Crop:
        def __call__(self, results):
            return dict(results, img=results["crop"])

    path = noise(tmp_path / "a.png")
    for made in (Crop(), lambda results: results):
        assert inspect_image(path, (9, 9), PipelineLoader([{}], lambda cfg, t=made: t)) == []
    (passed,) = inspect_image(path, None, PipelineLoader([{}], lambda cfg: lambda results: None))
    assert passed.harmless
