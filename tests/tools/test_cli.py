"""The scripts as a user starts them."""

import json
import pickle
import re
import socket
import sys

import numpy as np
import pytest
from helpers.processes import run_torchrun
from helpers.scripts import TOOLS, run_new
from PIL import Image

from mmhcgnet import cli

CHECKPOINT = "work_dirs/classifier/epoch_1.pth"
CLASSES = ("dark", "light")
slow = pytest.mark.slow(reason="interpreters that import everything")
CONFIG = """
default_scope = "mmpretrain"
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(num_classes=2, mean=[127.5] * 3, std=[127.5] * 3),
    backbone=dict(
        type="mmhcgnet.HCGNet",
        arch=dict(depths=[1, 1], growth_rates=[8, 8], stem="cifar"),
        norm_cfg=dict(type="BN"),
        init_cfg={init_cfg},
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="LinearClsHead",
        num_classes=2,
        in_channels=20,
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


def distributed(name, *args, cwd, python=sys.executable):
    """Run one of the dist scripts on the CPU, on a port that is free."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    return run_new(TOOLS / name, *args, cwd=cwd, PYTHON=python, PORT=port, CUDA_VISIBLE_DEVICES="")


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
def distributed_warm(warm, folder):
    """As ``distributed``, with forks in place of the interpreters that the script would start."""
    python = folder / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)

    def run(name, *args):
        result = distributed(name, *args, cwd=folder, python=python)
        assert result.code == 0, result.err
        option, module, *command = result.out.splitlines()
        assert (option, module) == ("-m", "torch.distributed.run")
        return run_torchrun(warm, *command, cwd=folder, env=dict(CUDA_VISIBLE_DEVICES=""))

    return run


@pytest.fixture(scope="module")
def trained(folder, distributed_warm):
    """What two gloo processes on the CPU leave in the default work directory."""
    result = distributed_warm("dist_train.sh", "classifier.py", 2, "--auto-scale-lr", "--resume")
    assert result.code == 0, result.err[-3000:]
    (log,) = (folder / "work_dirs" / "classifier").glob("*/*.log")
    return log.read_text()


@pytest.mark.parametrize("name", ["train.py", "test.py"])
def test_help_names_the_flags_of_both_toolboxes(name, tmp_path):
    result = run_new(sys.executable, TOOLS / name, "--help", cwd=tmp_path)
    assert result.code == 0
    common = "--work-dir --amp --cfg-options --launcher --no-pin-memory"
    own = {
        "train.py": "--resume --no-validate --auto-scale-lr --no-persistent-workers",
        "test.py": "--out --out-item --show --show-dir --interval --wait-time --tta --deploy",
    }
    assert set(f"{common} {own[name]}".split()) <= set(re.findall(r"--[a-z-]+", result.out))


def test_a_misspelt_type_gets_one_sentence(warm, folder):
    options = ("--cfg-options", "model.backbone.type=mmhcgnet.HCGNett")
    command = ("train.py", "classifier.py", *options, "--work-dir", "misspelt")
    result = warm.run(TOOLS / command[0], *command[1:], cwd=folder)
    assert result.code == 2
    (line,) = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert re.search(r"type='mmhcgnet.HCGNett' is not in .*did you mean mmhcgnet.HCGNet\b", line)
    assert "Traceback" not in result.err


@pytest.mark.parametrize(
    "command, sentence",
    [
        ("train.py clasifier.py", r"clasifier\.py does not exist \(did you mean classifier\.py"),
        ("test.py classifier.py absent.pth", r"checkpoint absent\.pth does not exist"),
        ("test.py classifier.py absent.pth --out a.csv", r"--out must end in"),
        (
            "train.py classifier.py --cfg-options train_dataloader.dataset.data_root=no",
            r"data set no .*: train_dataloader\.dataset\.data_root=DIR$",
        ),
        ("train.py pretrained.py", r"pretrained .*absent/backbone\.pth"),
        ("train.py classifier.py --resume absent.pth", r"checkpoint absent\.pth does not exist"),
        ("train.py classifier.py --launcher pytorch", r"dist_train\.sh"),
    ],
)
def test_a_mistake_is_found_before_anything_is_built(command, sentence, folder, monkeypatch, start):
    name, *args = command.split()
    monkeypatch.chdir(folder)
    monkeypatch.delenv("RANK", raising=False)
    (line,) = start(name, *args, code=2).err.splitlines()
    assert re.match(f"error: .*{sentence}", line)


def test_ctrl_c_while_data_is_checked_ends_with_one_word(folder, monkeypatch, start):
    def check(*args, **kwargs):
        raise KeyboardInterrupt  # as Python does wherever it is

    monkeypatch.setattr(cli, "check_data", check)
    monkeypatch.chdir(folder)
    assert start("train.py", "classifier.py", code=130).err == "Interrupted.\n"


def test_two_processes_train_on_a_cpu(trained, folder):
    # Eight images in batches of four are one iteration for two processes, and two for one.
    assert re.search(r"Epoch\(train\) +\[1\]\[1/1\]", trained)
    assert re.search(r"Epoch\(val\) +\[1\]\[1/1\] +accuracy/top1", trained)
    assert "LR is set based on batch size of 8" in trained
    assert (folder / "work_dirs" / "classifier" / "epoch_1.pth").is_file()


@slow
def test_the_script_starts_interpreters_that_train(folder):
    result = distributed("dist_train.sh", "classifier.py", 2, "--work-dir", "started", cwd=folder)
    assert result.code == 0, result.err[-3000:]
    (log,) = (folder / "started").glob("*/*.log")
    assert re.search(r"Epoch\(train\) +\[1\]\[1/1\]", log.read_text())
    assert (folder / "started" / "epoch_1.pth").is_file()


def test_resume_without_a_checkpoint_says_so_and_starts_anew(trained):
    sentence = "no checkpoint to resume from in ./work_dirs/classifier: training starts from"
    assert sentence in trained


def test_resume_without_a_checkpoint_starts_from_the_weights_that_are_given(trained, warm, folder):
    weights = "load_from=work_dirs/classifier/epoch_1.pth"
    options = ("--resume", "--work-dir", "given", "--cfg-options", weights)
    result = warm.run(TOOLS / "train.py", "classifier.py", *options, cwd=folder)
    assert result.code == 0, result.err[-3000:]
    (log,) = (folder / "given").glob("*/*.log")
    assert "training starts from the weights in work_dirs/classifier/epoch_1.pth" in log.read_text()


def test_two_processes_test_on_a_cpu_and_write_predictions_and_pictures(
    trained, folder, distributed_warm
):
    flags = "--out out/p.pkl --show-dir pictures --interval 2 --amp --no-pin-memory"
    command = ("dist_test.sh", "classifier.py", CHECKPOINT, 2, *flags.split())
    result = distributed_warm(*command)
    assert result.code == 0, result.err[-3000:]
    predictions = pickle.loads((folder / "out" / "p.pkl").read_bytes())
    assert len(predictions) == 8 and {len(p["pred_score"]) for p in predictions} == {2}
    assert list((folder / "pictures").rglob("*.png"))


@slow
def test_classification_needs_no_detection_packages(trained, folder):
    """Metrics with test-time augmentation, deployed, where there is no MMDetection and no op."""
    absent = "dict.fromkeys(['mmdet', 'mmcv.ops', 'mmcv._ext'])"
    without = f"import runpy, sys; sys.modules.update({absent}); "
    start = f"sys.argv.pop(0); runpy.run_path({str(TOOLS / 'test.py')!r}, run_name='__main__')"
    flags = ("--out", "out/m.json", "--tta", "--deploy")
    arguments = ("test.py", "classifier.py", CHECKPOINT, *flags)
    result = run_new(sys.executable, "-c", without + start, *arguments, cwd=folder)
    assert result.code == 0, result.err[-3000:]
    assert "Deployed: module.backbone" in result.out + result.err
    metrics = json.loads((folder / "out" / "m.json").read_text())
    assert 0 <= metrics["accuracy/top1"] <= 100


def test_resume_needs_no_pretrained_weights(trained, warm, folder):
    result = warm.run(
        TOOLS / "train.py",
        "pretrained.py",
        *("--resume", CHECKPOINT, "--work-dir", "resumed"),
        *("--no-validate", "--no-persistent-workers", "--cfg-options", "train_cfg.max_epochs=2"),
        cwd=folder,
    )
    assert result.code == 0, result.err[-3000:]
    assert (folder / "resumed" / "epoch_2.pth").is_file()
    assert not (folder / "resumed" / "epoch_1.pth").exists()
    # The copy of the config still starts a new run as meant.
    assert "absent/backbone.pth" in (folder / "resumed" / "pretrained.py").read_text()


def test_a_mistake_in_a_distributed_run_is_told_once_and_fails(distributed_warm):
    options = ("--cfg-options", "model.backbone.norm_cfg.type=SyncBN")
    result = distributed_warm("dist_train.sh", "classifier.py", 2, *options)
    assert result.code != 0
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert lines[0].endswith("--cfg-options model.backbone.norm_cfg.type=BN")


def test_dist_scripts_explain_their_arguments(folder):
    result = distributed("dist_test.sh", "classifier.py", cwd=folder)
    assert result.code == 2
    assert "CONFIG CHECKPOINT GPUS" in result.err
