import re
import time

import pytest
from torch.utils.data import DataLoader, Dataset

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
def test_what_happens_in_a_worker_becomes_one_sentence(fail, sentence, capsys):
    loader = DataLoader(Faulty(fail), num_workers=1, timeout=1)
    with pytest.raises(SystemExit) as info, report_usage_errors():
        list(loader)
    assert info.value.code == 2
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


def test_a_batch_that_died_with_its_worker_becomes_one_sentence(capsys):
    def _try_get_data():  # as PyTorch calls it
        raise ConnectionResetError(104, "Connection reset by peer")

    with pytest.raises(SystemExit), report_usage_errors():
        _try_get_data()
    assert "worker has ended ([Errno 104] Connection reset" in capsys.readouterr().err


def test_ranks_above_0_let_rank_0_speak_first(monkeypatch, capsys):
    waits = []
    monkeypatch.setattr("mmhcgnet.cli.report.time.sleep", waits.append)
    for rank in "01":
        monkeypatch.setenv("RANK", rank)
        with pytest.raises(SystemExit), report_usage_errors("pytorch"):
            raise UsageError("Wrong.")
        # A stale variable does not matter without a launcher.
        with pytest.raises(SystemExit), report_usage_errors("none"):
            raise UsageError("Wrong.")
    assert len(waits) == 1


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
