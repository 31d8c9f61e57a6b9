"""The tool that attacks, run in this process on tiny classifiers and generated pictures."""

import functools
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from helpers.configs import classifier, hcgnet
from torch import nn

from mmhcgnet.checkpoints import checkpoint
from mmhcgnet.engine.configs import load_config
from mmhcgnet.engine.models import build_model, load_model

pytest.importorskip("foolbox")
pytest.importorskip("mmpretrain.models")

HCGNET = hcgnet()
OTHER = 'dict(type="ResNet_CIFAR", depth=18, base_channels=2, out_indices=(1,))'
LABELS = (0, 1, 0, 2, 1, 0, 2, 1, 2)


def config_text(backbone, channels, head='"LinearClsHead"', pack='"PackInputs"'):
    colours = dict(mean=(120, 110, 100), std=(60, 50, 40))
    return f"""{classifier(backbone, channels, classes=3, head=head, **colours)}
test_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        data_prefix="pictures",
        pipeline=[dict(type="LoadImageFromFile"), dict(type={pack})],
    ),
)
"""


def save(config, path):
    torch.manual_seed(3)
    model = build_model(load_config(config))
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=1 if "head" in name else 0.3)
    torch.save(dict(state_dict=model.state_dict()), path)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Nine pictures in three class folders, and two classifiers with weights."""
    monkeypatch.chdir(tmp_path)
    random = np.random.default_rng(0)
    for i, label in enumerate(LABELS):
        path = Path(f"pictures/{'abc'[label]}/{i}.png")
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = random.integers(0, 256, (16, 12, 3)) * random.random(3)
        cv2.imwrite(str(path), picture.astype(np.uint8))
    Path("tiny.py").write_text(config_text(HCGNET, 20))
    Path("other.py").write_text(config_text(OTHER, 4))
    for name in ("tiny", "other"):
        save(f"{name}.py", f"{name}.pth")
    return tmp_path


@pytest.fixture
def run(start):
    return functools.partial(start, "analysis_tools/robustness.py", code=0)


def cells_of(name, path="work_dirs/robustness.json"):
    cells = json.loads(Path(path).read_text())["models"][name]["cells"]
    return {(c["attack"], c["epsilon"]): (c["images"], c["right"]) for c in cells}


def test_weights_are_found_by_name(folder, run, monkeypatch):
    shipped = dict(shipped=folder / "tiny.pth")
    monkeypatch.setattr(checkpoint, "shipped_weights", shipped.get)
    run("tiny.py", "shipped", "--attacks", "fgsm", "--epsilons", 0.02)
    assert cells_of("tiny")


def test_two_models_side_by_side(folder, run):
    pytest.importorskip("matplotlib")
    command = ("tiny.py", "tiny.pth", "other.py", "other.pth", "--epsilons", 0.02, 0, 0.1)
    options = ("--pgd-steps", 3, "--plot", "new/a.png", "--paper")
    captured = run(*command, *options)
    assert "tiny: 9 of 9 images" in captured.err and "other: 9 of 9 images" in captured.err
    assert (folder / "new/a.png").read_bytes().startswith(b"\x89PNG")
    table = [line for line in captured.out.splitlines() if line.startswith("|")]
    assert table[0].split("|")[4:7] == [f" {s} " for s in ("ε = 0", "ε = 0.02", "ε = 0.1")]
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table[2:]]
    for row, (name, attack) in zip(
        rows[:4],
        [(name, attack) for name in ("tiny", "other") for attack in ("fgsm", "pgd-3")],
        strict=True,
    ):
        cells = cells_of(name)
        found = [cells["none", 0.0], cells[attack, 0.02], cells[attack, 0.1]]
        assert {images for images, _ in found} == {9} and row[0] == name
        assert row[3:] == [f"{100 * right / 9:.2f}" for _, right in found]
        assert cells["pgd-3", 0.1] <= cells["fgsm", 0.1] and len(cells) == 5
    assert rows[-1][0] == "HCGNet-B (paper)" and len(rows) == 9

    # Without an attack the accuracy is that of an ordinary test.
    cfg = load_config("tiny.py")
    model = load_model(cfg, "tiny.pth")
    right = 0
    for path in sorted(Path("pictures").glob("*/*.png")):
        image = torch.from_numpy(cv2.imread(str(path))).permute(2, 0, 1)[None]
        (sample,) = model.test_step(dict(inputs=image))
        right += int(sample.pred_label) == "abc".index(path.parent.name)
    assert cells_of("tiny")["none", 0.0] == (9, right) and 0 < right < 9

    # The same command counts nothing anew, and a further size is added.
    before = cells_of("tiny")
    again = run(*command, 0.2, *options)
    assert "ε = 0.2" in again.out
    assert before.items() < cells_of("tiny").items()
    assert len(cells_of("tiny")) == 7


def test_pictures_are_spread_over_the_data(folder, run, monkeypatch):
    """Data sets are sorted by class: the first pictures would be of one."""
    run("tiny.py", "tiny.pth", "--images", 3, "--epsilons", 0, "--names", "net", "--json", "a.json")
    assert cells_of("net", "a.json")["none", 0.0][0] == 3
    from mmhcgnet.analysis.robustness.evaluation import Subject

    ((_, labels),) = Subject("net", "tiny.py", "tiny.pth", 3).pictures(0)
    assert labels.tolist() == [0, 1, 2]


def write(path, *args, **kwargs):
    Path(path).write_text(config_text(*args, **kwargs))


def other_size():
    cv2.imwrite("pictures/a/z.png", np.zeros((20, 12, 3), np.uint8))


def damage():
    Path("pictures/a/0.png").write_bytes(b"<html>")


def fourth_class():
    Path("pictures/d").mkdir()
    cv2.imwrite("pictures/d/0.png", np.zeros((16, 12, 3), np.uint8))


def no_scores():
    write("tiny.py", HCGNET, 20, head='"ClsHead", _delete_=True')
    text = Path("tiny.py").read_text().replace(", num_classes=3, in_channels=20", "")
    Path("tiny.py").write_text(
        text.replace('neck=dict(type="GlobalAveragePooling"),', "").replace(", _delete_=True", "")
    )
    save("tiny.py", "tiny.pth")


def normalised():
    pack = '"Normalize", mean=[120] * 3, std=[60] * 3), dict(type="PackInputs"'
    write("tiny.py", HCGNET, 20, pack=pack)


def several_labels():
    text = Path("tiny.py").read_text().replace('type="CustomDataset"', 'type="MultiLabelDataset"')
    items = [dict(img_path=f"a/{i}.png", gt_label=[0, 1]) for i in (0, 2, 5)]
    Path("a.json").write_text(json.dumps(dict(metainfo={}, data_list=items)))
    Path("tiny.py").write_text(text.replace("data_prefix=", 'ann_file="a.json", data_prefix='))


def results_of_other_weights():
    about = dict(setup=dict(weights="0"), cells=[])
    Path("work_dirs").mkdir()
    Path("work_dirs/robustness.json").write_text(json.dumps(dict(models=dict(tiny=about))))


def detector():
    Path("tiny.py").write_text(
        'default_scope = "mmdet"\nmodel = dict(type="MaskRCNN")\n'
        "test_dataloader = dict(dataset=dict())\n"
    )


MODEL = ("tiny.py", "tiny.pth")
MISTAKES = {
    "odd": (None, ("tiny.py",), "Give a checkpoint after each config: tiny.py has none"),
    "names": (None, (*MODEL, *MODEL), "a name of its own with --names"),
    "config": (None, ("tinny.py", "tiny.pth"), "tinny.py does not exist"),
    "checkpoint": (None, ("tiny.py", "a.pth"), "The checkpoint a.pth does not exist"),
    "url": (None, ("tiny.py", "https://a/b.pth"), "loaded from local files"),
    "last": (None, (*MODEL, "other.py", "tiny.pth"), "tiny.pth does not fit the model"),
    "epsilon": (None, (*MODEL, "--epsilons", 0, 4), "epsilons are between 0 and 1"),
    "many": (None, (*MODEL, "--images", 10), "images=10 is more than the 9"),
    "cuda": (None, (*MODEL, "--device", "cuda"), "finds no CUDA device"),
    "plot": (None, (*MODEL, "--plot", "a.gif"), "--plot draws a .png"),
    "no plot": (None, (*MODEL, "--plot", "tiny.py/a.png"), "a.png cannot be written"),
    "json": (None, (*MODEL, "--json", "tiny.py"), "holds no results of this tool"),
    "unwritable": (None, (*MODEL, "--json", "/dev/null/a.json"), "cannot be written"),
    "detector": (detector, MODEL, "tiny.py does not build a classifier (MaskRCNN)"),
    "data": (None, (*MODEL, "--cfg-options", "test_dataloader.dataset.data_prefix=no"), "no ("),
    "sizes": (other_size, MODEL, "differ in size"),
    "damaged": (damage, MODEL, "The image pictures/a/0.png"),
    "classes": (fourth_class, MODEL, "has 4 classes"),
    "head": (no_scores, MODEL, "The head of tiny.py, ClsHead, gives no score for each class"),
    "pipeline": (normalised, MODEL, "does not pack images of 0 to 255"),
    "labels": (several_labels, MODEL, "do not have exactly one label for each image"),
    "other": (results_of_other_weights, MODEL, "other model and other weights and other data"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_get_one_sentence_before_anything_is_attacked(folder, run, monkeypatch, case):
    prepare, args, sentence = MISTAKES[case]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    if prepare:
        prepare()
    captured = run(*args, code=2)
    last = captured.err.splitlines()[-1]
    assert last.startswith("error: ") and sentence in last, captured.err
    assert "images/s" not in captured.err


def test_without_foolbox_it_says_what_to_install(folder, run, monkeypatch):
    monkeypatch.setitem(sys.modules, "foolbox", None)
    from mmhcgnet.analysis import robustness

    for name in ("attacks", "evaluation"):
        monkeypatch.delitem(sys.modules, f"{robustness.__name__}.{name}", raising=False)
        monkeypatch.delattr(robustness, name, raising=False)
    result = run(*MODEL, code=None)
    assert result.code and "pip install 'mmhcgnet[analysis]'" in result.err


@pytest.mark.gpu
def test_the_gpu_counts_alike(folder, run):
    args = (*MODEL, "--epsilons", 0, 0.1, "--pgd-steps", 3)
    run(*args)
    run(*args, "--device", "cuda", "--json", "cuda.json")
    for cell, (images, right) in cells_of("tiny").items():
        found = cells_of("tiny", "cuda.json")[cell]
        assert found[0] == images and abs(found[1] - right) <= 1
