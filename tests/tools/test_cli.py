"""The scripts as a user starts them."""

import json
import os
import pickle
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

TOOLS = Path(__file__).parents[2] / "tools"
CLASSES = ("dark", "light")
CONFIG = """
default_scope = "mmpretrain"
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type="ResNet_CIFAR",
        depth=18,
        base_channels=4,
        stem_channels=4,
        norm_cfg=dict(type="BN"),
        init_cfg={init_cfg},
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=2,
        in_channels=32,
        loss=dict(type="CrossEntropyLoss"),
        topk=(1,),
    ),
)
pipeline = [dict(type="LoadImageFromFile"), dict(type="PackInputs")]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type="CustomDataset", data_root="{root}", data_prefix="train", pipeline=pipeline),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(type="CustomDataset", data_root="{root}", data_prefix="val", pipeline=pipeline),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01))
default_hooks = dict(visualization=dict(type="VisualizationHook", enable=False))
visualizer = dict(type="UniversalVisualizer")
auto_scale_lr = dict(base_batch_size=8)
"""


def make_config(folder, name, root, init_cfg=None):
    path = folder / f"{name}.py"
    path.write_text(CONFIG.format(root=root, init_cfg=init_cfg))
    return path


def run(*command, cwd):
    """Run a command; its exit code is that of a script without traceback where it is 0 or 2."""
    env = dict(os.environ, PYTHON=sys.executable)
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, timeout=300
    )


def script(name, *args, cwd):
    return run(sys.executable, TOOLS / name, *args, cwd=cwd)


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return str(sock.getsockname()[1])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with images in class folders and two configs."""
    folder = tmp_path_factory.mktemp("cli")
    rng = np.random.default_rng(0)
    for split in ("train", "val"):
        for i, name in enumerate(CLASSES):
            place = folder / "data" / split / name
            place.mkdir(parents=True)
            for k in range(4):
                image = rng.integers(100 * i, 100 * i + 100, (32, 48, 3), dtype=np.uint8)
                Image.fromarray(image).save(place / f"{k}.png")
    make_config(folder, "classifier", "data")
    make_config(
        folder, "pretrained", "data", dict(type="Pretrained", checkpoint="absent/backbone.pth")
    )
    return folder


@pytest.fixture(scope="module")
def trained(folder):
    """What two gloo processes on the CPU leave in the default work directory."""
    os.environ["PORT"] = free_port()
    result = run(
        TOOLS / "dist_train.sh",
        "classifier.py",
        2,
        "--auto-scale-lr",
        "--cfg-options",
        "env_cfg.dist_cfg.timeout=120",
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return result


@pytest.mark.parametrize("name", ["train.py", "test.py"])
def test_help_names_the_flags_of_both_toolboxes(name, tmp_path):
    result = script(name, "--help", cwd=tmp_path)
    assert result.returncode == 0
    common = "--work-dir --amp --cfg-options --launcher --no-pin-memory"
    own = {
        "train.py": "--resume --no-validate --auto-scale-lr --no-persistent-workers",
        "test.py": "--out --out-item --show --show-dir --interval --wait-time --tta",
    }
    assert set(f"{common} {own[name]}".split()) <= set(re.findall(r"--[a-z-]+", result.stdout))


@pytest.mark.parametrize(
    "command, sentence",
    [
        (["train.py", "clasifier.py"], r"clasifier\.py does not exist \(did you mean classifier"),
        (["test.py", "classifier.py", "absent.pth"], r"checkpoint absent\.pth does not exist"),
        (
            ["train.py", "classifier.py", "--cfg-options", "train_dataloader.dataset.data_root=no"],
            r"data set no \(train_dataloader\.dataset\.data_root\).*"
            r"--cfg-options train_dataloader\.dataset\.data_root=DIR",
        ),
        (
            ["train.py", "classifier.py", "--cfg-options", "model.backbone.type=ResNet_CIFR"],
            r"type='ResNet_CIFR' is not in .*did you mean ResNet_CIFAR",
        ),
        (["train.py", "pretrained.py"], r"pretrained .*absent/backbone\.pth"),
        (["train.py", "classifier.py", "--launcher", "pytorch"], r"dist_train\.sh"),
    ],
)
def test_a_mistake_gets_one_sentence(command, sentence, folder):
    result = script(*command, "--work-dir", "mistakes", cwd=folder)
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert re.search(sentence, line)
    assert "Traceback" not in result.stderr


def test_two_processes_train_on_a_cpu(trained, folder):
    work_dir = folder / "work_dirs" / "classifier"
    assert (work_dir / "epoch_1.pth").is_file()
    # Eight images in batches of four on two processes are one iteration, of one process two.
    assert re.search(r"Epoch\(train\) +\[1\]\[1/1\]", trained.stderr + trained.stdout)
    scaled = "LR is set based on batch size of 8"
    assert scaled in trained.stderr + trained.stdout


def test_two_processes_test_on_a_cpu_and_write_the_metrics(trained, folder):
    os.environ["PORT"] = free_port()
    checkpoint = "work_dirs/classifier/epoch_1.pth"
    result = run(
        TOOLS / "dist_test.sh", "classifier.py", checkpoint, 2, "--out", "out/m.json", cwd=folder
    )
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = json.loads((folder / "out" / "m.json").read_text())
    assert 0 <= metrics["accuracy/top1"] <= 100


def test_predictions_and_pictures_with_test_time_augmentation(trained, folder):
    flags = "--out out/p.pkl --show-dir pictures --interval 2 --tta --amp --no-pin-memory"
    checkpoint = "work_dirs/classifier/epoch_1.pth"
    result = script("test.py", "classifier.py", checkpoint, *flags.split(), cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    predictions = pickle.loads((folder / "out" / "p.pkl").read_bytes())
    assert len(predictions) == 8 and {len(p["pred_score"]) for p in predictions} == {2}
    assert len(list((folder / "pictures").glob("*.png"))) == 4


def test_resume_needs_no_pretrained_weights(trained, folder):
    result = script(
        "train.py",
        "pretrained.py",
        *("--resume", "work_dirs/classifier/epoch_1.pth", "--work-dir", "resumed"),
        *("--no-validate", "--no-persistent-workers", "--cfg-options", "train_cfg.max_epochs=2"),
        cwd=folder,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (folder / "resumed" / "epoch_2.pth").is_file()
    assert "absent/backbone.pth" in (folder / "resumed" / "pretrained.py").read_text()


def test_resume_without_a_checkpoint_says_so_and_starts_anew(folder):
    result = script("train.py", "classifier.py", "--resume", "--work-dir", "anew", cwd=folder)
    assert result.returncode == 0, result.stderr[-3000:]
    (log,) = (folder / "anew").glob("*/*.log")
    assert "no checkpoint to resume from in anew: training starts anew" in log.read_text()
    assert (folder / "anew" / "epoch_1.pth").is_file()


def test_a_mistake_in_a_distributed_run_is_told_once_and_fails(folder):
    os.environ["PORT"] = free_port()
    result = run(
        TOOLS / "dist_train.sh",
        "classifier.py",
        2,
        *("--cfg-options", "model.backbone.norm_cfg.type=SyncBN"),
        cwd=folder,
    )
    assert result.returncode != 0
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].endswith("--cfg-options model.backbone.norm_cfg.type=BN")


def test_dist_scripts_explain_their_arguments(folder):
    result = run(TOOLS / "dist_test.sh", "classifier.py", cwd=folder)
    assert result.returncode == 2
    assert "CONFIG CHECKPOINT GPUS" in result.stderr
