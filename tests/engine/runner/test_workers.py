"""Workers leave signals to the main process, are killed with it, and wait as long as it runs."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from torch.utils.data import DataLoader, Dataset

from mmhcgnet.engine.runner.data_loading import guard_loader
from mmhcgnet.engine.runner.workers import Sheltered


class Pids(Dataset):
    """The process that loads a sample; the third one may take its time."""

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def __len__(self):
        return 6

    def __getitem__(self, index):
        if index == 2:
            time.sleep(self.seconds)
        return os.getpid()


def workers(**options):
    return guard_loader(DataLoader(Pids(options.pop("seconds", 0.0)), num_workers=2, **options))


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_for(ready, seconds=20):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.01)


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1"])
def test_workers_ignore_the_signals_of_their_group(name):
    batches = iter(workers())
    pids = {int(next(batches)), int(next(batches))}
    for pid in pids:
        os.kill(pid, getattr(signal, name))
    assert len(list(batches)) == 4 and pids == pids - {os.getpid()}


def test_the_users_own_start_of_workers_comes_after(tmp_path):
    def init(worker):
        (tmp_path / str(worker)).write_text(str(signal.getsignal(signal.SIGTERM)))

    list(workers(worker_init_fn=init))
    assert [(tmp_path / w).read_text() for w in "01"] == [str(signal.SIG_IGN)] * 2


PARENT = """
import sys
sys.path.insert(0, {here!r})
from test_workers import workers
batches = iter(workers(batch_size=1, seconds=600, prefetch_factor=1))
print(int(next(batches)), int(next(batches)), flush=True)
{then}
"""


def start_parent(warm, folder, then):
    """A process whose first worker hangs, and the pids of both."""
    here = str(Path(__file__).parent)
    (folder / "parent.py").write_text(PARENT.format(here=here, then=then))
    run = warm.start(folder / "parent.py", cwd=folder)
    output = folder / ".runs/0.out"
    wait_for(lambda: output.read_text().endswith("\n"))
    return run, [int(pid) for pid in output.read_text().split()]


def test_no_worker_outlives_a_main_process_that_is_killed(warm, tmp_path):
    run, pids = start_parent(warm, tmp_path, "next(batches)")
    assert len(set(pids)) == 2 and all(map(is_alive, pids))
    run.kill(signal.SIGKILL)
    wait_for(lambda: not any(map(is_alive, pids)))
    assert run.wait().code == -signal.SIGKILL


def test_a_worker_that_hangs_is_killed_at_the_end(warm, tmp_path):
    run, pids = start_parent(warm, tmp_path, "pass")
    assert run.wait().code == 0
    wait_for(lambda: not any(map(is_alive, pids)))


def test_one_that_is_started_too_late_ends_at_once(monkeypatch):
    pid = os.fork()
    if not pid:
        monkeypatch.setattr(
            "multiprocessing.parent_process", lambda: type("Parent", (), dict(pid=1 << 22))
        )
        Sheltered(None)(0)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_a_worker_that_hangs_still_times_out():
    batches = iter(workers(seconds=2, timeout=0.4))
    next(batches), next(batches)
    with pytest.raises(RuntimeError, match=r"timed out after 0\.4 seconds"):
        next(batches)


def test_a_process_that_was_suspended_goes_on():
    """For longer than the timeout, while it waited for a batch."""
    loader = workers(seconds=4, timeout=2)
    pid = os.getpid()
    waker = subprocess.Popen(
        ["sh", "-c", f"sleep 0.5; kill -STOP {pid}; sleep 3; kill -CONT {pid}"]
    )
    try:
        assert len(list(loader)) == 6
    finally:
        waker.wait()


def test_a_worker_that_died_is_an_error_only_where_a_batch_is_awaited():
    batches = iter(workers(prefetch_factor=1))
    pid = int(next(batches))
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: not is_alive(pid))
    time.sleep(0.1)  # PyTorch's handler would have raised by now
    with pytest.raises(RuntimeError, match="killed by signal: Killed|exited unexpectedly"):
        list(batches)
