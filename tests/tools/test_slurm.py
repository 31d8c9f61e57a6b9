"""The scripts for Slurm, with an ``srun`` that records its arguments."""

import pytest
from helpers.scripts import TOOLS, run_new

SRUN = """#!/bin/sh
printf '%s\\n' "$@" > "$RECORD"
"""


@pytest.fixture
def srun(tmp_path, monkeypatch):
    """Runs a script, and returns what Slurm was asked for."""
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin/srun"
    program.write_text(SRUN)
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
    for name in ("GPUS", "GPUS_PER_NODE", "CPUS_PER_TASK", "SRUN_ARGS", "PYTHON"):
        monkeypatch.delenv(name, raising=False)

    def run(name, *args, **env):
        record = tmp_path / "arguments"
        result = run_new("bash", TOOLS / name, *args, cwd=tmp_path, RECORD=str(record), **env)
        assert (result.code, result.err) == (0, "")
        return record.read_text().splitlines()

    return run


def test_eight_gpus_on_a_machine(srun):
    assert srun("slurm_train.sh", "part", "name", "my config.py", "work dir", "--resume") == [
        *("-p", "part", "--job-name=name", "--gres=gpu:8", "--ntasks=8", "--ntasks-per-node=8"),
        *("--cpus-per-task=5", "--kill-on-bad-exit=1", "python", "-u", str(TOOLS / "train.py")),
        *("my config.py", "--work-dir=work dir", "--launcher=slurm", "--resume"),
    ]


def test_the_variables_of_the_familys_scripts(srun):
    options = ("--cfg-options", "a=[1, 2]", "b=c d")
    args = ("part", "name", "c.py", "ckpt.pth", *options)
    env = dict(GPUS="16", GPUS_PER_NODE="4", CPUS_PER_TASK="3", PYTHON="/venv/python")
    found = srun("slurm_test.sh", *args, SRUN_ARGS="--time=1:00 --signal=USR1@120", **env)
    assert found == [
        *("-p", "part", "--job-name=name", "--gres=gpu:4", "--ntasks=16", "--ntasks-per-node=4"),
        *("--cpus-per-task=3", "--kill-on-bad-exit=1", "--time=1:00", "--signal=USR1@120"),
        *("/venv/python", "-u", str(TOOLS / "test.py"), "c.py", "ckpt.pth", "--launcher=slurm"),
        *options,
    ]


def test_fewer_gpus_than_a_machine_has(srun):
    found = srun("slurm_train.sh", "part", "name", "c.py", "work", GPUS="2")
    assert {"--gres=gpu:2", "--ntasks=2", "--ntasks-per-node=2"} <= set(found)


@pytest.mark.parametrize("name, last", [("train", "WORK_DIR"), ("test", "CHECKPOINT")])
def test_arguments_that_are_missing(name, last):
    result = run_new("bash", TOOLS / f"slurm_{name}.sh", "part", "name", "c.py")
    assert result.code == 2 and f"PARTITION JOB_NAME CONFIG {last}" in result.err
