"""What the tests themselves stand on: nothing that they start outlives them."""

import os
import time
from pathlib import Path

import pytest
from helpers.processes import run_processes
from helpers.warm import Warm


def test_what_a_warm_process_runs_ends_with_it(tmp_path):
    script = tmp_path / "wait.py"
    script.write_text("import time\ntime.sleep(100)\n")
    with Warm(imports=False) as own:
        run = own.start(script, cwd=tmp_path)
        assert run.poll() is None
    end = time.monotonic() + 10
    with pytest.raises(ProcessLookupError):
        while time.monotonic() < end:
            os.kill(run.pid, 0)
            time.sleep(0.05)


def fail_in_one(rank, folder):
    assert rank == 0, "on purpose"
    time.sleep(60)
    (Path(folder) / "done").touch()


@pytest.mark.slow(reason="waits for seconds")
def test_a_process_that_fails_ends_the_others(warm, tmp_path):
    with pytest.raises(AssertionError, match="on purpose"):
        run_processes(warm, fail_in_one, tmp_path)
    assert not (tmp_path / "done").exists()
