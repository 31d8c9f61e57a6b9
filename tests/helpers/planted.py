"""A data set in Broden's format and a network whose units are known to detect its concepts."""

import csv

import cv2
import numpy as np
import torch
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

CATEGORIES = ("color", "object", "part", "material", "scene", "texture")
# number: name, category
LABELS = {
    1: ("red-c", "color(8)"),
    2: ("blue-c", "color(8)"),
    300: ("sea", "object(8);part(1)"),  # needs the second byte
    4: ("striped", "texture(2)"),
    5: ("banded", "texture(2)"),
    6: ("night", "scene(40)"),
}
SIDE, CELL = 28, 4  # pixels of an image and of a position of the network's map


def write_table(path, header, rows):
    with open(path, "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])


def write_broden(root, rows, labels=LABELS, categories=CATEGORIES):
    """Write the tables; ``rows`` are dicts of the index's columns."""
    columns = ["image", "split", "ih", "iw", "sh", "sw", *categories]
    write_table(root / "index.csv", columns, [[row.get(c, "") for c in columns] for row in rows])
    write_table(
        root / "label.csv",
        ["number", "name", "category", "frequency", "coverage", "syns"],
        [[number, name, category, 1, 1.0, ""] for number, (name, category) in labels.items()],
    )
    columns = ["name", "first", "last", "count", "frequency"]
    write_table(root / "category.csv", columns, [[name, 1, 1, 1, 1] for name in categories])


def write_map(path, labels):
    """Write a label map, ``(sh, sw)``, as R + 256 * G."""
    green, red = np.divmod(labels, 256)
    assert cv2.imwrite(str(path), np.stack([np.zeros_like(red), green, red], -1).astype(np.uint8))


def make_planted(root, images=400):
    """Write grey images, some of which have a patch of 3 x 3 cells in colour, or stripes.

    Red patches are labelled as they are, blue ones too; the sea is four columns of cells wider to
    the right than the blue in it. Stripes fill an image, and their label is that of the image.
    """
    (root / "images").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    for i in range(images):
        image = np.full((SIDE, SIDE, 3), rng.integers(40, 200), np.uint8)
        labels = np.zeros((2, SIDE // 2, SIDE // 2), int)
        name = f"{i:03d}"
        row = dict(image=f"{name}.png", split="val", ih=SIDE, iw=SIDE, sh=SIDE // 2, sw=SIDE // 2)
        kind = i % 25  # 16 images of each of the first kinds
        top = CELL * rng.integers(1, 4)
        patch = slice(top, top + 3 * CELL), slice(CELL, 4 * CELL)
        halved = tuple(slice(side.start // 2, side.stop // 2) for side in patch)
        if kind == 0 and i < 200:
            image[patch] = (0, 0, rng.integers(150, 255))
            labels[0][halved] = 1
        elif kind == 1 and i < 200:
            image[patch] = (rng.integers(150, 255), 0, 0)
            labels[0][halved] = 2
            labels[1][halved[0], 2:12] = 300
        elif kind == 2 and i < 50:
            image[:, ::2] = 250
            image[:, 1::2] = 10
            row["texture"] = "4"
        elif kind == 3 and i < 50:
            image[::2] = 250
            image[1::2] = 10
            row["texture"] = "5;0"
        elif kind > 22:
            row["scene"] = "6"
        for category, found in zip(("color", "object"), labels, strict=True):
            if found.any():
                row[category] = f"{name}_{category}.png"
                write_map(root / "images" / row[category], found)
        assert cv2.imwrite(str(root / "images" / row["image"]), image)
        rows.append(row)
    write_broden(root, rows)


@MODELS.register_module()
class PlantedBackbone(BaseModule):
    """Units for red, blue, vertical and horizontal stripes, and one that never fires."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, CELL, CELL)
        with torch.no_grad():
            self.conv.weight.zero_()
            self.conv.bias.copy_(torch.tensor([0.0, 0.0, 0.0, 0.0, -1.0]))
            colours = torch.tensor([[1.0, -1.0, -1.0], [-1.0, -1.0, 1.0]])  # RGB
            self.conv.weight[:2] = colours[:, :, None, None] / 16
            self.conv.weight[2, :, :, ::2] = 1 / 16
            self.conv.weight[2, :, :, 1::2] = -1 / 16
            self.conv.weight[3] = self.conv.weight[2].transpose(1, 2)

    def forward(self, x):
        return (self.conv(x).relu(),)


PLANTED_CONFIG = """
default_scope = "mmpretrain"
data_preprocessor = dict(mean=None, std=None, to_rgb=True)
model = dict(type="ImageClassifier", backbone=dict(type="PlantedBackbone"))
"""
