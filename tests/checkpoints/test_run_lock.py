import os
import signal

import pytest

from mmhcgnet.checkpoints.run_lock import LOCK, lock_folder
from mmhcgnet.errors import UsageError


def hold(folder):
    """A process that holds the lock until it is killed."""
    ready, tell = os.pipe()
    if not (pid := os.fork()):
        lock = lock_folder(str(folder))
        os.write(tell, b"1" if lock else b"0")
        signal.pause()
    assert os.read(ready, 1) == b"1"
    os.close(ready), os.close(tell)
    return pid


def test_one_run_a_folder_and_the_kernel_ends_it(tmp_path):
    (tmp_path / LOCK).write_text("process 1 on another machine\n")  # left there, it says nothing
    pid = hold(tmp_path)
    try:
        with pytest.raises(UsageError, match=rf"Another run trains in .* \(process {pid} on "):
            lock_folder(str(tmp_path))
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with lock_folder(str(tmp_path)):
        assert f"process {os.getpid()} on " in (tmp_path / LOCK).read_text()
        assert lock_folder(str(tmp_path)) is None  # it is this process's already


def test_where_there_are_no_locks_nothing_is_refused(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("mmhcgnet.checkpoints.run_lock.fcntl.flock", refuse)
    assert lock_folder(str(tmp_path)) is None
    assert lock_folder(str(tmp_path / "absent")) is None
