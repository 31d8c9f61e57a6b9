"""Two processes train, die, are restarted and evaluate: torchrun around the scripts."""

import pickle
import re
import time

import numpy as np
import pytest
import torch
from helpers.processes import run_torchrun
from helpers.scripts import TOOLS
from PIL import Image

CLASSES = ("dark", "light")
CONFIG = """
default_scope = "mmpretrain"
data_preprocessor = dict(num_classes=2, mean=[128, 128, 128], std=[64, 64, 64], to_rgb=True)
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="mmhcgnet.HCGNet", arch=dict(depths=(1, 1), growth_rates=(8, 8)), norm_eval=True
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=2, in_channels=44, topk=(1,)),
)
load = dict(type="LoadImageFromFile")
flip = dict(type="RandomFlip", prob=AUGMENT, direction="horizontal")
pack = dict(type="PackInputs")
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    dataset=dict(
        type="CustomDataset", data_root="data", data_prefix="train", pipeline=[load, flip, pack]
    ),
    sampler=dict(type="DefaultSampler", shuffle=True),
)
val_dataloader = test_dataloader = dict(
    batch_size=3,
    num_workers=0,
    dataset=dict(type="CustomDataset", data_root="data", data_prefix="val", pipeline=[load, pack]),
    sampler=dict(type="DefaultSampler", shuffle=False),
)
val_evaluator = test_evaluator = dict(type="Accuracy", topk=(1,))
train_cfg = dict(type="mmhcgnet.ResumableEpochLoop", max_epochs=3, val_interval=3)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9))
randomness = dict(seed=1)
default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1))
"""
KILLED = """
import sys
sys.path.insert(0, "")
custom_imports = dict(imports=["dying"])
custom_hooks = [dict(type="Dying")]
"""
DYING = """
import os, signal
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Dying(Hook):
    \"\"\"Rank 1 is killed in the second epoch, until the launcher has started it once more.\"\"\"

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
        if runner.iter == 3 and runner.rank == 1 and first:
            open("killed", "w").close()
            os.kill(os.getpid(), signal.SIGKILL)
"""


pytestmark = pytest.mark.slow(reason="two processes that train, several times")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sixteen images to train with and seven to validate with."""
    folder = tmp_path_factory.mktemp("distributed")
    rng = np.random.default_rng(0)
    for split, numbers in (("train", (8, 8)), ("val", (4, 3))):
        for i, name in enumerate(CLASSES):
            place = folder / "data" / split / name
            place.mkdir(parents=True)
            for k in range(numbers[i]):
                image = rng.integers(100 * i, 100 * i + 156, (32, 48, 3), dtype=np.uint8)
                Image.fromarray(image).save(place / f"{k}.png")
    augmented = CONFIG.replace("AUGMENT", "0.5")
    (folder / "augmented.py").write_text(augmented)
    (folder / "plain.py").write_text(CONFIG.replace("AUGMENT", "0.0"))
    (folder / "killed.py").write_text(augmented + KILLED)
    (folder / "dying.py").write_text(DYING)
    return folder


def two(warm, folder, restarts, name, *argv):
    options = "--nproc-per-node=2 --rdzv-backend=c10d --rdzv-endpoint=localhost:0"
    command = (*options.split(), f"--max-restarts={restarts}", TOOLS / name, *argv)
    # Without it restarted processes may meet at the addresses of those before them
    # (https://github.com/pytorch/pytorch/issues/135712).
    env = dict(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1")
    return run_torchrun(warm, *command, "--launcher", "pytorch", cwd=folder, env=env)


def train_two(warm, folder, config, work_dir, *options, restarts=0):
    options = ("--cfg-options", *options) if options else ()
    argv = ("train.py", config, "--work-dir", work_dir, "--resume", *options)
    return two(warm, folder, restarts, *argv)


def load(folder, name):
    return torch.load(folder / name, weights_only=False)


@pytest.fixture(scope="module")
def whole(warm, folder):
    result = train_two(warm, folder, "augmented.py", "whole")
    assert result.code == 0, result.err[-3000:]
    return load(folder, "whole/epoch_3.pth")


def test_two_processes_train_as_one_with_the_double_batch(warm, folder):
    result = train_two(warm, folder, "plain.py", "two", "train_cfg.max_epochs=1")
    assert result.code == 0, result.err[-3000:]
    options = ("train_dataloader.batch_size=8", "train_cfg.max_epochs=1")
    command = (TOOLS / "train.py", "plain.py", "--work-dir", "one", "--cfg-options", *options)
    result = warm.run(*command, cwd=folder)
    assert result.code == 0, result.err[-3000:]
    one, both = (load(folder, f"{name}/epoch_1.pth") for name in ("one", "two"))
    for name, value in one["state_dict"].items():
        torch.testing.assert_close(both["state_dict"][name], value, rtol=0, atol=1e-6, msg=name)
    # The momentum is the sum of the gradients of both iterations.
    states = one["optimizer"]["state"]
    assert max(state["momentum_buffer"].abs().max() for state in states.values()) > 1e-2
    for number, state in states.items():
        found = both["optimizer"]["state"][number]["momentum_buffer"]
        torch.testing.assert_close(found, state["momentum_buffer"], rtol=0, atol=1e-6)


def test_a_process_that_dies_ends_the_run(warm, folder):
    start = time.monotonic()
    result = train_two(warm, folder, "killed.py", "dead")
    assert result.code != 0 and time.monotonic() - start < 60
    assert (folder / "killed").exists() and (folder / "dead/epoch_1.pth").exists()
    assert not (folder / "dead/epoch_2.pth").exists()


def test_a_run_that_the_launcher_restarts_resumes_exactly(warm, folder, whole):
    result = train_two(warm, folder, "killed.py", "restarted", restarts=1)
    assert result.code == 0, result.err[-3000:]
    log = "".join(path.read_text() for path in (folder / "restarted").glob("*/*.log"))
    assert "resumed epoch: 1, iter: 2" in log
    restarted = load(folder, "restarted/epoch_3.pth")["state_dict"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(restarted[name], value), name


def test_an_evaluation_by_two_counts_every_image_once(warm, folder, whole):
    """Of seven images each of two processes gets four."""
    test = ("test.py", "plain.py", "whole/epoch_3.pth", "--work-dir", "test", "--out")
    results = (
        warm.run(TOOLS / test[0], *test[1:], "one.pkl", cwd=folder),
        two(warm, folder, 0, *test, "two.pkl"),
    )
    metrics = []
    for result in results:
        assert result.code == 0, result.err[-3000:]
        metrics.append(re.search(r"accuracy/top1: [\d.]+", result.out + result.err)[0])
    assert metrics[0] == metrics[1]
    one, both = (pickle.loads((folder / name).read_bytes()) for name in ("one.pkl", "two.pkl"))
    assert len(one) == len(both) == 7 and len({p["img_path"] for p in both}) == 7
    for left, right in zip(one, both, strict=True):
        assert left["img_path"] == right["img_path"]
        torch.testing.assert_close(left["pred_score"], right["pred_score"])
