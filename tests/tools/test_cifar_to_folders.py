"""CIFAR-10 from its own files to class folders."""

import hashlib
import pickle

import cv2
import numpy as np
import pytest
from mmpretrain.datasets import CIFAR10
from mmpretrain.datasets.categories import CIFAR10_CATEGORIES

SCRIPT = "dataset_converters/cifar_to_folders.py"


@pytest.fixture
def data(tmp_path, monkeypatch):
    """Files as CIFAR-10's, of two images each; returns them with their classes."""
    folder = tmp_path / "cifar10/cifar-10-batches-py"
    folder.mkdir(parents=True)
    random, images, lists = np.random.default_rng(0), {}, {}
    for kind in ("train", "test"):
        images[kind], lists[kind] = [], []
        for name, _ in getattr(CIFAR10, f"{kind}_list"):
            pixels = random.integers(0, 256, (2, 3, 32, 32), np.uint8)
            labels = random.integers(0, 10, 2).tolist()
            content = pickle.dumps(dict(data=pixels.reshape(2, -1), labels=labels))
            (folder / name).write_bytes(content)
            lists[kind].append([name, hashlib.md5(content).hexdigest()])
            images[kind] += zip(pixels, labels, strict=True)
        monkeypatch.setattr(CIFAR10, f"{kind}_list", lists[kind])
    return images


def test_every_image_is_a_file_with_its_pixels_in_the_folder_of_its_class(start, data, tmp_path):
    out = tmp_path / "folders"
    printed = start(SCRIPT, tmp_path / "cifar10", out, code=0).out
    assert "train: 10 images of 10 classes" in printed and "test: 2 images" in printed
    for split, images in data.items():
        assert sorted(path.name for path in (out / split).iterdir()) == sorted(CIFAR10_CATEGORIES)
        assert len(list((out / split).glob("*/*"))) == len(images)
        for number, (pixels, label) in enumerate(images):
            path = out / split / CIFAR10_CATEGORIES[label] / f"{number:05d}.png"
            rgb = cv2.imread(str(path))[..., ::-1]
            np.testing.assert_array_equal(rgb.transpose(2, 0, 1), pixels)


def test_what_cannot_be_downloaded_is_said(start, tmp_path, monkeypatch):
    monkeypatch.setattr(CIFAR10, "url", (tmp_path / "nowhere.tar.gz").as_uri())
    error = start(SCRIPT, tmp_path / "cifar10", tmp_path / "folders", code=2).err.splitlines()[-1]
    assert "CIFAR-10 cannot be read from" in error and "nowhere.tar.gz and unpack it" in error
    assert not (tmp_path / "folders").exists()
