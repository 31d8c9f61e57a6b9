"""The classification recipes: what the built Runner, heads and pipelines really do."""

import itertools
import math
import pickle
import re
from copy import deepcopy
from functools import cache
from pathlib import Path

import mmpretrain.datasets
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.optim import build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner
from mmpretrain.structures import DataSample
from PIL import ExifTags, Image, ImageOps
from torch import nn
from torch.nn import functional as F
from torchvision import transforms
from torchvision.datasets.folder import pil_loader
from torchvision.transforms import functional as TF

from mmhcgnet.models import DropBlock

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs/hcgnet"
A1, A2, A3 = (
    f"hcgnet-{arch}_1xb128-mixup-sgdr-{epochs}_cifar"
    for arch, epochs in (("a1", "1270e"), ("a2", "2x630e"), ("a3", "2x630e"))
)
B, C = (f"hcgnet-{arch}_2xb128-mixup-lbs-sgdr-630e_in1k" for arch in "bc")
COSINE = "hcgnet-b_2xb128-amp-mixup-lbs-cosine-100e_in1k"
# The lengths of the cosines, in epochs.
CYCLES = {
    f"{A1}10": [10, 20, 40, 80, 160, 320, 640],
    f"{A2}10": [10, 20, 40, 80, 160, 320, 10, 20, 40, 80, 160, 320],
    B: [10, 20, 40, 80, 160, 320],
    COSINE: [100],
}
# Recipe -> one with the same schedule.
RECIPES = {f"{name}{k}": f"{name}10" for name in (A1, A2) for k in (10, 100)}
RECIPES |= {f"{A3}{k}": f"{A2}10" for k in (10, 100)} | {B: B, C: B}
RECIPES |= {name.replace("e_", "e-released_"): same for name, same in RECIPES.items()}
MEAN_STD = {
    f"{A1}10": ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    f"{A1}100": ((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    B: ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}


@pytest.fixture(autouse=True)
def _scope():
    with DefaultScope.overwrite_default_scope("mmpretrain"):
        yield


@cache
def read(name):
    return Config.fromfile(CONFIGS / f"{name}.py")


def find(name, released=False):
    return deepcopy(read(name.replace("e_", "e-released_") if released else name))


def build_preprocessor(cfg):
    """Build the data preprocessor as MMPretrain's classifier does."""
    cfg = dict(cfg.data_preprocessor, batch_augments=cfg.model.train_cfg)
    return MODELS.build(dict(cfg, type="ClsDataPreprocessor"))


# The learning rate


class StandIn(BaseModel):
    """A model of one number, in runs that are about everything else."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, inputs, mode="tensor"):
        return dict(loss=self.weight.square())


class Recorder(Hook):
    def __init__(self):
        self.rates = []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        (group,) = runner.optim_wrapper.param_groups
        self.rates.append(group["lr"])


@pytest.mark.parametrize("name", CYCLES)
def test_the_rate_of_every_epoch_follows_the_formula(name, tmp_path):
    cfg = find(name)
    recorder = Recorder()
    runner = Runner(
        model=StandIn(),
        work_dir=str(tmp_path),
        train_dataloader=dict(
            batch_size=1,
            num_workers=0,
            dataset=[dict(inputs=torch.zeros(1))],
            sampler=dict(type="DefaultSampler", shuffle=False),
        ),
        train_cfg=cfg.train_cfg,
        # The one with mixed precision wants a GPU.
        optim_wrapper=dict(optimizer=cfg.optim_wrapper.optimizer),
        param_scheduler=cfg.param_scheduler,
        default_hooks=dict(checkpoint=None, logger=None, timer=None, sampler_seed=None),
        custom_hooks=[recorder],
        default_scope="mmpretrain",
        log_level="ERROR",
    )
    runner.train()
    expected = [
        0.1 * (1 + math.cos(math.pi * epoch / period)) / 2
        for period in CYCLES[name]
        for epoch in range(period)
    ]
    # As many rates as epochs, so the run ends with a cycle.
    assert len(recorder.rates) == len(expected)
    np.testing.assert_allclose(recorder.rates, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_share_these_schedules(name):
    cfg, same = find(name), find(RECIPES[name])
    assert cfg.param_scheduler == same.param_scheduler
    assert cfg.train_cfg == same.train_cfg


def test_recipes_are_evaluated_every_ten_epochs():
    for name in RECIPES:
        assert find(name).train_cfg.val_interval == 10
        assert all(period % 10 == 0 for period in find(name).param_scheduler[0].periods)


@pytest.mark.parametrize("name", RECIPES)
def test_the_optimiser_decays_every_parameter(name):
    cfg = find(name)
    with torch.device("meta"):
        model = MODELS.build(cfg.model)
    (group,) = build_optim_wrapper(model, cfg.optim_wrapper).param_groups
    assert {id(p) for p in group["params"]} == {id(p) for p in model.parameters()}
    assert (group["lr"], group["momentum"], group["nesterov"]) == (0.1, 0.9, True)
    assert group["weight_decay"] == (1e-4 if "cifar" in name else 4e-5)
    gpus = 1 if "cifar" in name else 2
    assert cfg.train_dataloader.batch_size == 128
    assert cfg.auto_scale_lr.base_batch_size == 128 * gpus


def test_the_cosine_recipe_is_in_mixed_precision_and_channels_last():
    cfg, paper = find(COSINE), find(B)
    assert cfg.optim_wrapper.pop("type") == "AmpOptimWrapper"
    assert cfg.optim_wrapper.get("loss_scale", "dynamic") == "dynamic"  # MMEngine's default
    assert cfg.optim_wrapper.optimizer == paper.optim_wrapper.optimizer
    assert cfg.custom_hooks == [dict(type="mmhcgnet.ChannelsLastHook")]
    assert cfg.model == paper.model


# Mixup, label smoothing, dropout, DropBlock


def smooth(labels, right, wrong, num_classes):
    """Soft labels ``(N, K)`` with ``right`` for the class and ``wrong`` for every other one."""
    targets = torch.full((len(labels), num_classes), wrong)
    return targets.scatter(1, labels[:, None], right)


@pytest.mark.parametrize(
    ("name", "released", "alpha", "num_classes", "right", "wrong"),
    [
        (f"{A1}10", False, 1.0, 10, 1.0, 0.0),
        (f"{A3}100", False, 1.0, 100, 1.0, 0.0),
        (B, False, 0.4, 1000, 1 - 0.1 + 0.1 / 1000, 0.1 / 1000),
        (B, True, 0.4, 1000, 0.9, 0.1 / 999),
        (C, True, 0.4, 1000, 0.9, 0.1 / 999),
    ],
)
def test_mixup_and_label_smoothing_follow_the_formula(
    name, released, alpha, num_classes, right, wrong, monkeypatch
):
    cfg = find(name, released)
    preprocessor, head = build_preprocessor(cfg), MODELS.build(cfg.model.head)
    images = torch.randint(0, 256, (6, 3, 8, 10), dtype=torch.uint8)
    labels = torch.randint(0, num_classes, (6,))
    # Far apart and in double precision: the two smoothings differ by 1e-4 in one probability.
    head.double()
    features = (30 * torch.randn(6, cfg.model.head.in_channels).double(),)

    def data():
        return dict(inputs=images, data_samples=[DataSample().set_gt_label(y) for y in labels])

    def cross_entropy(labels):
        targets = smooth(labels, right, wrong, num_classes)
        return -(targets * F.log_softmax(head(features), dim=1)).sum(dim=1).mean()

    # Without mixup, what the labels alone give.
    plain = preprocessor(data(), training=False)
    loss = head.loss(features, data()["data_samples"])["loss"]
    torch.testing.assert_close(loss, cross_entropy(labels), rtol=1e-6, atol=0)

    drawn = []
    monkeypatch.setattr(np.random, "beta", lambda a, b: drawn.append((a, b)) or 0.3)
    torch.manual_seed(1)
    partners = torch.randperm(6)
    torch.manual_seed(1)
    mixed = preprocessor(data(), training=True)
    assert drawn == [(alpha, alpha)]
    x = plain["inputs"]
    torch.testing.assert_close(mixed["inputs"], 0.3 * x + 0.7 * x[partners])
    loss = head.loss(features, mixed["data_samples"])["loss"]
    expected = 0.3 * cross_entropy(labels) + 0.7 * cross_entropy(labels[partners])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", [B, C])
def test_dropout_stands_before_the_classifier(name):
    neck = MODELS.build(find(name).model.neck)
    maps = (torch.ones(64, 1000, 2, 3),)
    (features,) = neck.train()(maps)
    assert features.shape == (64, 1000)
    dropped = (features == 0).float().mean()
    assert abs(dropped - 0.1) < 5 * math.sqrt(0.1 * 0.9 / features.numel())
    torch.testing.assert_close(features[features != 0].unique(), torch.tensor([1 / 0.9]))
    assert (neck.eval()(maps)[0] == 1).all()

    (features,) = MODELS.build(find(name, released=True).model.neck).train()(maps)
    assert (features == 1).all()


@pytest.mark.parametrize("name", [f"{name}{k}" for name in (A1, A2, A3) for k in (10, 100)])
def test_only_the_released_cifar_recipe_has_dropblock(name):
    with torch.device("meta"):
        paper, released = (MODELS.build(find(name, kind).model) for kind in (False, True))
    assert not any(isinstance(m, DropBlock) for m in paper.modules())
    (layer,) = (m for m in released.modules() if isinstance(m, DropBlock))
    assert (layer.block_size, layer.drop_prob, layer.style) == (2, 0.1, "released")
    hooks = find(name, released=True).custom_hooks
    assert [hook.type for hook in hooks] == ["mmhcgnet.ChannelsLastHook", "mmhcgnet.DropBlockHook"]
    assert paper.state_dict().keys() == released.state_dict().keys()


@pytest.mark.parametrize("name", [f"{A1}10", f"{A2}100", f"{A3}10", B, C])
def test_only_the_released_recipe_has_pytorchs_initialisation(name):
    """In the classifier as well: a layer is never drawn again after it was built."""
    paper, released = (find(name, kind).model for kind in (False, True))
    assert "weight_init" not in paper.backbone
    assert (released.backbone.weight_init, released.head.init_cfg) == ("pytorch", None)
    released.backbone.arch = dict(depths=(1,), growth_rates=(8,))
    released.head.in_channels = 72
    model = MODELS.build(released)
    built = deepcopy(model.state_dict())
    model.init_weights()
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, built[key]), key
    assert model.head.fc.bias.abs().max() > 0
    assert model.backbone.stages[0][0].forget_gate.attention.bias.abs().max() > 0


# Data


def draw(height, width):
    """An image of noise, in which a pixel that is off by one shows."""
    rng = np.random.default_rng(height * width)
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def make_cifar(kind, folder, monkeypatch):
    """Write a data set of two images a file; return the images of the file read last, RGB."""
    images = np.stack([draw(32, 32), draw(32, 32)[::-1]])
    labels = "labels" if kind.__name__ == "CIFAR10" else "fine_labels"
    content = {"data": images.transpose(0, 3, 1, 2).reshape(2, -1), labels: [3, 7]}
    for split in ("train_list", "test_list"):
        files = [name for name, _ in getattr(kind, split)]
        monkeypatch.setattr(kind, split, [[name, None] for name in files])
        for name in files:
            path = folder / kind.base_folder / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(pickle.dumps(content))
    return images


def normalised(image, name):
    """What torchvision makes of an RGB image."""
    return transforms.Compose([transforms.ToTensor(), transforms.Normalize(*MEAN_STD[name])])(image)


@pytest.mark.parametrize("kind", ["CIFAR10", "CIFAR100"])
def test_the_network_sees_cifar_as_normalised_rgb(kind, tmp_path, monkeypatch):
    images = make_cifar(getattr(mmpretrain.datasets, kind), tmp_path, monkeypatch)
    name = A1 + kind.removeprefix("CIFAR")
    cfg = find(name)
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        dataset = DATASETS.build(dict(loader.dataset, data_root=str(tmp_path)))
        assert len(dataset) == 2
        seen = build_preprocessor(cfg)(dict(inputs=dataset[1]["inputs"][None]))["inputs"][0]
        torch.testing.assert_close(seen, normalised(images[1].copy(), name), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["CIFAR10", "CIFAR100"])
def test_cifar_is_padded_by_four_cropped_and_flipped(kind, tmp_path, monkeypatch):
    images = make_cifar(getattr(mmpretrain.datasets, kind), tmp_path, monkeypatch)
    cfg = find(A1 + kind.removeprefix("CIFAR"))
    dataset = DATASETS.build(dict(cfg.train_dataloader.dataset, data_root=str(tmp_path)))
    padded = np.pad(images[0], [(4, 4), (4, 4), (0, 0)])
    crops = {
        padded[y : y + 32, x : x + 32][:, ::step].tobytes(): (y, x, step)
        for y in range(9)
        for x in range(9)
        for step in (1, -1)
    }
    seen = [crops[dataset[0]["inputs"].permute(1, 2, 0).numpy().tobytes()] for _ in range(300)]
    for values, possible in zip(
        zip(*seen, strict=True), (range(9), range(9), (1, -1)), strict=True
    ):
        assert set(values) == set(possible)


SIZES = [(375, 500), (500, 333), (256, 256), (257, 259), (301, 97), (226, 1001)]


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("name", [B, COSINE])
def test_imagenet_is_resized_and_cropped_as_by_torchvision(name, height, width, tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(draw(height, width)).save(path)
    cfg = find(name)
    crop = transforms.Compose([transforms.Resize(256), transforms.CenterCrop(224)])
    expected = crop(Image.open(path))
    for loader in (cfg.val_dataloader, cfg.test_dataloader):
        inputs = Compose(loader.dataset.pipeline)(dict(img_path=str(path)))["inputs"]
        # MMPretrain's images are BGR until the preprocessor turns them.
        assert torch.equal(inputs.flip(0), TF.pil_to_tensor(expected))
        seen = build_preprocessor(cfg)(dict(inputs=inputs[None]))["inputs"][0]
        torch.testing.assert_close(seen, normalised(expected, B), rtol=0, atol=1e-5)


@pytest.mark.parametrize("orientation", [3, 6])
@pytest.mark.parametrize("name", [B, COSINE])
def test_imagenet_is_not_turned_by_exif_data_as_by_torchvision(name, orientation, tmp_path):
    path = tmp_path / "image.jpg"
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    # All colours at full size: how they are enlarged is a matter of the decoder.
    Image.fromarray(draw(240, 320)).save(path, exif=exif, quality=95, subsampling=0)
    expected = np.asarray(pil_loader(path))
    assert not np.array_equal(expected, ImageOps.exif_transpose(Image.open(path)))
    cfg = find(name)
    for loader in (cfg.train_dataloader, cfg.val_dataloader, cfg.test_dataloader):
        load = Compose(loader.dataset.pipeline).transforms[0]
        seen = load(dict(img_path=str(path)))["img"][:, :, ::-1]
        np.testing.assert_array_equal(seen, expected)


def test_imagenet_is_cropped_at_random_as_by_torchvision(tmp_path):
    path = tmp_path / "image.png"
    Image.fromarray(draw(375, 500)).save(path)
    pipeline = Compose(find(B).train_dataloader.dataset.pipeline)
    _, crop, flip, _ = pipeline.transforms
    assert (crop.crop_ratio_range, crop.aspect_ratio_range) == ((0.08, 1.0), (3 / 4, 4 / 3))
    assert flip.prob == 0.5 and flip.direction == "horizontal"
    flip.prob = 0.0
    crop.rand_crop_params = lambda img: (31, 57, 203, 181)
    inputs = pipeline(dict(img_path=str(path)))["inputs"]
    expected = TF.resized_crop(Image.open(path), 31, 57, 203, 181, [224, 224])
    assert torch.equal(inputs.flip(0), TF.pil_to_tensor(expected))


# The page that compares them


def test_every_row_of_the_recipes_table_names_its_test_or_says_that_it_has_none():
    lines = (ROOT / "docs/classification.md").read_text().splitlines()
    (start,) = (i for i, line in enumerate(lines) if line.endswith("| checked by |"))
    rows = list(itertools.takewhile(lambda line: line.startswith("|"), lines[start + 2 :]))
    assert len(rows) > 20
    tests = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text(), re.MULTILINE)
    }
    for row in rows:
        cells = [cell.strip() for cell in row.strip("|").split("|")]
        assert len(cells) == 6, row
        assert cells[-1] == "not checkable here" or cells[-1].strip("`") in tests, row
