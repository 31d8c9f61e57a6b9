import errno
import gc
import os
import re
import socket
import sys
import threading
import time
from datetime import timedelta

import pytest
import torch
from torch.distributed import TCPStore
from torch.utils.data import DataLoader, Dataset

from mmhcgnet.cli import launch
from mmhcgnet.cli.report import report_usage_errors
from mmhcgnet.engine.models import explain_misspelt_types
from mmhcgnet.errors import DataError, MissingFileError, UsageError


@pytest.mark.parametrize("error", [UsageError, MissingFileError])
def test_usage_errors_become_one_line_and_exit_code_2(error, capsys):
    with pytest.raises(SystemExit) as exit_info, report_usage_errors():
        raise error("Do it otherwise.")
    assert exit_info.value.code == 2
    assert capsys.readouterr().err == "error: Do it otherwise.\n"


def test_other_errors_keep_their_traceback():
    with pytest.raises(FileNotFoundError), report_usage_errors():
        open("absent/file")


@pytest.mark.parametrize(
    "act, sentence",
    [
        (lambda: open("folder", "w"), "folder cannot be read or written: Is a directory."),
        (lambda: os.mkdir("file/below"), "file/below cannot be read or written: Not a directory."),
        (PermissionError(errno.EACCES, "Permission denied", "a"), "a cannot be read or written: "),
        (OSError(errno.EROFS, "Read-only file system", "a"), "a cannot be read or written: "),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), "a.png cannot be written: No"),
        # Of a write and not of the opening, the system does not name the file.
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "A file cannot be written: Disk quota"),
    ],
)
def test_what_a_file_system_refuses_becomes_one_sentence(
    act, sentence, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as info, report_usage_errors():
        if isinstance(act, OSError):
            raise act
        act()
    assert info.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {sentence}")


def test_a_permission_that_is_not_about_a_file_keeps_its_traceback():
    with pytest.raises(PermissionError), report_usage_errors():
        raise PermissionError(errno.EPERM, "Operation not permitted")


class Faulty(Dataset):
    """Four samples, of which the third fails."""

    def __init__(self, fail):
        self.fail = fail

    def __len__(self):
        return 4

    def __getitem__(self, index):
        if index == 2:
            self.fail()
        return index


def refuse():
    try:
        {}["mask"]
    except KeyError as error:
        raise DataError("The image a.png is empty: replace it.") from error


@pytest.mark.parametrize(
    "fail, sentence",
    [
        (refuse, "error: The image a.png is empty: replace it."),
        (lambda: open("absent.png"), "FileNotFoundError: .*absent.png"),
        (lambda: {}["mask"], "KeyError: 'mask'"),
        (lambda: time.sleep(60), "sent nothing for 1 seconds.*train_dataloader.timeout=SECONDS"),
    ],
    ids=["explained", "file", "key", "hanging"],
)
def test_what_happens_in_a_worker_becomes_one_sentence(fail, sentence, capsys, monkeypatch):
    # So long the end of an iterator waits for a worker's.
    monkeypatch.setattr(torch.utils.data._utils, "MP_STATUS_CHECK_INTERVAL", 0.1)
    loader = DataLoader(Faulty(fail), num_workers=1, timeout=1)
    with pytest.raises(SystemExit) as info, report_usage_errors():
        list(loader)
    assert info.value.code == 2
    del info
    gc.collect()  # the iterator
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and re.search(sentence, line)


# A worker that is really killed would be told to this process at any later time, too; the campaign
# of data faults has one.
@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that",
        "DataLoader worker (pid(s) 7, 8) exited unexpectedly",
    ],
)
def test_the_end_of_a_worker_becomes_one_sentence(message, capsys):
    with pytest.raises(SystemExit), report_usage_errors():
        raise RuntimeError(message)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(r"error: A dataloader's worker has ended \(.*\): .*num_workers=1", line)


@pytest.mark.parametrize(
    "error, words",
    [
        # A worker says it as the cause of its own error.
        (
            RuntimeError(
                "Caught RuntimeError in DataLoader worker process 0.\nRuntimeError: unable to "
                "allocate shared memory(shm) for file </torch_7>: Success (0)"
            ),
            "shared memory ./dev/shm. is full: .*--shm-size",
        ),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"),
            "Memory has run out",
        ),
        (MemoryError(), "Memory has run out"),
        (OSError(24, "Too many open files"), "Too many files are open: .*ulimit -n"),
        (KeyboardInterrupt(), "Interrupted."),
    ],
    ids=["shm", "torch", "python", "files", "interrupted"],
)
def test_what_a_machine_lacks_becomes_one_sentence(error, words, capsys):
    with pytest.raises(SystemExit) as info, report_usage_errors():
        raise error
    assert info.value.code == (130 if isinstance(error, KeyboardInterrupt) else 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(words, line)


@pytest.mark.parametrize("number", ["EPIPE", "EIO"])
def test_what_nobody_reads_any_more_ends_nothing(number, monkeypatch):
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with report_usage_errors():
            if number == "EIO":

                def gone():
                    raise OSError(errno.EIO, "Input/output error")

                monkeypatch.setattr(stream, "flush", gone, raising=False)
            print("a line that is lost", flush=True)
            done = True
        monkeypatch.undo()
    assert done  # and the stream was closed without an error


def test_a_batch_that_died_with_its_worker_becomes_one_sentence(capsys):
    def _try_get_data():  # as PyTorch calls it
        raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(SystemExit), report_usage_errors():
        _try_get_data()
    assert "worker has ended ([Errno 104] Connection reset" in capsys.readouterr().err


def test_ranks_above_0_let_rank_0_speak_first(monkeypatch, capsys):
    """Where the launcher has no store that says which process was the first."""
    waits = []
    monkeypatch.setattr(launch.time, "sleep", waits.append)
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit), report_usage_errors("pytorch"):
            raise UsageError("Wrong.")
        # A stale variable does not matter without a launcher.
        with pytest.raises(SystemExit), report_usage_errors("none"):
            raise UsageError("Wrong.")
    assert len(waits) == 1


@pytest.fixture
def torchrun(monkeypatch):
    """The store that torchrun keeps for its processes."""
    store = TCPStore("127.0.0.1", 0, is_master=True)
    monkeypatch.setenv("TORCHELASTIC_USE_AGENT_STORE", "True")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(store.port))
    monkeypatch.setattr(launch, "_PATIENCE", timedelta(seconds=1))
    return store


def fail(rank, monkeypatch, restarts=0):
    monkeypatch.setenv("RANK", str(rank))
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", str(restarts))
    with pytest.raises(SystemExit) as info, report_usage_errors("pytorch"):
        raise UsageError("Wrong.")
    assert info.value.code == 2


def test_of_the_processes_of_torchrun_the_first_one_speaks(torchrun, monkeypatch, capsys):
    monkeypatch.setattr(launch.time, "sleep", lambda seconds: pytest.fail("waits"))
    for restarts in (0, 1):
        for rank in (1, 0, 2):
            fail(rank, monkeypatch, restarts)
        assert capsys.readouterr().err == "error: Wrong.\n"


def test_the_others_end_after_the_first_one_has_spoken(torchrun, monkeypatch, capsys):
    """Their end makes torchrun stop it."""
    with launch.first_of_all("pytorch") as first:
        assert first
        other = threading.Thread(target=fail, args=(1, monkeypatch))
        other.start()
        other.join(0.1)
        assert other.is_alive()
    other.join()
    assert capsys.readouterr().err == ""


def test_where_the_first_one_has_died_the_others_end_all_the_same(torchrun, monkeypatch, capsys):
    launch.first_of_all("pytorch").__enter__()
    fail(1, monkeypatch)
    assert capsys.readouterr().err == ""


def test_where_torchrun_has_ended_everyone_speaks(torchrun, monkeypatch, capsys):
    with socket.socket() as sock:  # a port where nobody listens
        sock.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MASTER_PORT", str(sock.getsockname()[1]))
        fail(1, monkeypatch)
    assert capsys.readouterr().err == "error: Wrong.\n"


@pytest.mark.parametrize(
    "scope, name, close",
    [
        ("mmengine", "mmhcgnet.HCGNett", "mmhcgnet.HCGNet"),
        ("mmpretrain", "ResNett", "ResNet"),
        ("mmpretrain", "mmpretrain.ResNett", "ResNet"),
    ],
)
def test_a_misspelt_type_gets_close_names(scope, name, close):
    from mmengine.registry import MODELS, DefaultScope

    with (
        DefaultScope.overwrite_default_scope(scope),
        pytest.raises(UsageError, match=rf"type='{name}' .*did you mean [^?]*\b{close}\b"),
        explain_misspelt_types(),
    ):
        MODELS.build(dict(type=name))


def test_other_key_errors_pass():
    with pytest.raises(KeyError, match="colour"), explain_misspelt_types():
        {}["colour"]
