"""Two processes train, die, are restarted and evaluate: torchrun around the scripts."""

import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from helpers.processes import run_torchrun, start_torchrun
from helpers.scripts import TOOLS, run_new, session_members
from PIL import Image

from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.checkpoints.newest import find_newest

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

STANDING = """
import os, time
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

@HOOKS.register_module()
class Standing(Hook):
    \"\"\"Both stand still in the fifth iteration until they were sent the signal.\"\"\"

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        if runner.iter == 4:
            open(f"standing.{runner.rank}", "w").close()
            while not os.path.exists("sent"):
                time.sleep(0.01)
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
    (folder / "standing.py").write_text(STANDING)
    standing = KILLED.replace("dying", "standing").replace("Dying", "Standing")
    (folder / "stopped.py").write_text(augmented + standing)
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
    result = train_two(warm, folder, "killed.py", "dead")
    assert result.code != 0
    assert (folder / "killed").exists() and (folder / "dead/epoch_1.pth").exists()
    assert not (folder / "dead/epoch_2.pth").exists()


def test_a_signal_to_the_group_of_a_launcher_and_its_interpreters_saves(folder):
    """What Ctrl-C, ``timeout`` and Slurm send it to; torchrun sends its processes one more."""
    options = "--standalone --nproc-per-node=2"
    argv = ("stopped.py", "--work-dir", "stopped", "--launcher", "pytorch")
    command = ("-m", "torch.distributed.run", *options.split(), TOOLS / "train.py", *argv)
    with open(folder / "stopped.log", "w") as log:
        process = subprocess.Popen(
            list(map(str, (sys.executable, *command))),
            cwd=folder,
            env=dict(os.environ, TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1"),
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        while len(list(folder.glob("standing.[01]"))) < 2:
            assert process.poll() is None, (folder / "stopped.log").read_text()[-3000:]
            time.sleep(0.01)
        os.killpg(process.pid, signal.SIGTERM)
        (folder / "sent").touch()
        assert process.wait(timeout=120) == 1  # torchrun's own
        assert not session_members(process.pid)
    finally:
        for pid in session_members(process.pid):
            os.kill(pid, signal.SIGKILL)
    path = find_newest([str(folder / "stopped")]).path
    assert path.endswith("/interrupted_iter_5.pth") and read_checkpoint(path)["meta"]["iter"] == 5


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


# Several machines


def train_on_two_machines(warm, folder, config, work_dir):
    """Two agents with a process each, as ``dist_train.sh`` starts them on two machines."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = str(sock.getsockname()[1])
    python = folder / "python"
    python.write_text("#!/bin/sh\nprintf '%s\\n' \"$@\"\n")
    python.chmod(0o755)
    agents = []
    for rank in range(2):
        env = dict(NNODES="2", NODE_RANK=str(rank), PORT=port, PYTHON=str(python))
        arguments = (config, 1, "--work-dir", work_dir, "--resume")
        result = run_new(TOOLS / "dist_train.sh", *arguments, cwd=folder, **env)
        option, module, *command = result.out.splitlines()
        assert (option, module) == ("-m", "torch.distributed.run")
        agents.append(start_torchrun(warm, *command, cwd=folder))
    return [agent.wait() for agent in agents]


def test_two_machines_train_die_and_resume_as_one_machine_trains(warm, folder, whole):
    (folder / "killed").unlink(missing_ok=True)
    results = train_on_two_machines(warm, folder, "killed.py", "machines")
    assert all(result.code for result in results) and (folder / "killed").exists()
    assert [path.name for path in (folder / "machines").glob("*.pth")] == ["epoch_1.pth"]
    results = train_on_two_machines(warm, folder, "augmented.py", "machines")
    assert not any(result.code for result in results), results[0].err[-3000:]
    resumed = load(folder, "machines/epoch_3.pth")["state_dict"]
    for name, value in whole["state_dict"].items():
        assert torch.equal(resumed[name], value), name


# FSDP

ONE = """
_base_ = "plain.py"
# A sharded network runs in the plain form; with this one does so on one process, too.
model = dict(backbone=dict(gate_act_cfg=dict(type="ReLU")))
train_dataloader = dict(sampler=dict(shuffle=False))
train_cfg = dict(max_epochs=2)
optim_wrapper = dict(type="OptimWrapper")
"""
SHARDED = """
_base_ = "one.py"
runner_type = "FlexibleRunner"
env_cfg = dict(dist_cfg=dict(backend="gloo"))
strategy = dict(
    type="FSDPStrategy",
    # On GPUs the default is right.
    model_wrapper=dict(type="MMFullyShardedDataParallel", use_orig_params=True, device_id="cpu"),
    # MMEngine's "full" copies to the CPU, which ends PyTorch where the weights are there.
    state_dict_cfg=dict(
        state_dict_type="FULL_STATE_DICT",
        state_dict_config=dict(type="FullStateDictConfig", rank0_only=False),
        optim_state_dict_config=dict(type="FullOptimStateDictConfig", rank0_only=False),
    ),
)
train_dataloader = dict(dataset=dict(data_prefix="twins"))
"""


def test_a_sharded_network_trains_as_on_one_process(warm, folder):
    """Both processes see the same images, so that the mean of their gradients is exact."""
    for path in (folder / "data/train").glob("*/*.png"):
        for name in ("a", "b"):
            twin = folder / "data/twins" / path.parent.name / f"{path.stem}{name}.png"
            twin.parent.mkdir(parents=True, exist_ok=True)
            twin.write_bytes(path.read_bytes())
    (folder / "one.py").write_text(ONE)
    (folder / "sharded.py").write_text(SHARDED)
    result = warm.run(TOOLS / "train.py", "one.py", "--work-dir", "unsharded", cwd=folder)
    assert result.code == 0, result.err[-3000:]
    result = train_two(warm, folder, "sharded.py", "sharded")
    assert result.code == 0, result.err[-3000:]
    assert "FullyShardedDataParallel" in result.out + result.err
    one, both = (load(folder, f"{name}/epoch_2.pth") for name in ("unsharded", "sharded"))
    assert one["state_dict"].keys() == both["state_dict"].keys()
    for name, value in one["state_dict"].items():
        assert torch.equal(both["state_dict"][name], value), name
