"""Whatever stops an evaluation ends all of its processes."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from helpers.configs import classifier, hcgnet
from helpers.scripts import TOOLS, session_members
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner.checkpoint import save_checkpoint
from PIL import Image

CONFIG = """
import sys
sys.path.insert(0, "")
custom_imports = dict(imports=["standing"])
test_dataloader = dict(
    batch_size=1,
    num_workers=2,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        data_prefix="data",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="mmengine.StandStill"),
            dict(type="PackInputs"),
        ],
    ),
)
test_evaluator = dict(type="Accuracy", topk=(1,))
test_cfg = dict()
"""
STANDING = """
import os, time
from mmengine.registry import TRANSFORMS

@TRANSFORMS.register_module()
class StandStill:
    \"\"\"A worker does not come back from its second image.\"\"\"

    seen = 0

    def __call__(self, results):
        self.seen += 1
        if self.seen == 2:
            open(f"standing.{os.getpid()}", "w").close()
            time.sleep(600)
        return results
"""
COMMAND = (TOOLS / "test.py", "config.py", "weights.pth", "--work-dir", "out")


@pytest.fixture
def folder(tmp_path):
    text = classifier(hcgnet(), 20, 2) + CONFIG
    (tmp_path / "config.py").write_text(text)
    (tmp_path / "standing.py").write_text(STANDING)
    for name in ("a/0.png", "a/1.png", "b/0.png", "b/1.png"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((16, 16, 3), 90, np.uint8)).save(path)
    init_default_scope("mmpretrain")
    settings = Config.fromstring(classifier(hcgnet(), 20, 2), ".py")
    model = MODELS.build(settings.model | dict(data_preprocessor=settings.data_preprocessor))
    save_checkpoint(dict(state_dict=model.state_dict()), str(tmp_path / "weights.pth"))
    return tmp_path


def wait_for_workers(folder, ended):
    while len(list(folder.glob("standing.*"))) < 2:
        assert ended() is None, ended()
        time.sleep(0.01)


def wait_for_the_end_of_all(leader):
    """Of the processes of a session."""
    end = time.monotonic() + 20
    while left := session_members(leader):
        assert time.monotonic() < end, left
        time.sleep(0.01)


def assert_no_traceback(err):
    """But that of a worker's thread that passes tensors on: multiprocessing tells of its end."""
    own = r'Traceback \(most recent call last\):\n +File "\S+/multiprocessing/resource_sharer\.py"'
    assert "Traceback" not in re.sub(own, "", err), err[-3000:]


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, -signal.SIGTERM)])
def test_a_signal_to_the_group_ends_an_evaluation(warm, folder, number, code):
    run = warm.start(*COMMAND, cwd=folder)
    wait_for_workers(folder, run.poll)
    run.kill(number, group=True)
    result = run.wait()
    assert result.code == code, result.err[-3000:]
    wait_for_the_end_of_all(run.pid)
    assert_no_traceback(result.err)
    assert result.err.endswith("Interrupted.\n") == (number == signal.SIGINT)


def test_a_second_ctrl_c_ends_an_evaluation_at_once(warm, folder):
    run = warm.start(*COMMAND, cwd=folder)
    wait_for_workers(folder, run.poll)
    run.kill(signal.SIGINT, group=True)
    while "Interrupted." not in (folder / ".runs/0.err").read_text():
        time.sleep(0.01)
    # It would wait for its workers now.
    run.kill(signal.SIGINT, group=True)
    result = run.wait()
    assert result.code == -signal.SIGINT
    assert_no_traceback(result.err)
    wait_for_the_end_of_all(run.pid)


@pytest.mark.slow(reason="an interpreter that imports everything")
def test_timeout_ends_an_evaluation(folder):
    """Its time is up where it gets the signal of its own clock: no need to wait for it."""
    command = ("timeout", "-s", "TERM", "600", sys.executable, *map(str, COMMAND))
    with open(folder / "log", "w") as log:
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        wait_for_workers(folder, process.poll)
        os.kill(process.pid, signal.SIGALRM)
        assert process.wait(timeout=60) == 124
        wait_for_the_end_of_all(process.pid)
    finally:
        process.kill()
