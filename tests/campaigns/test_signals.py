"""The campaign of signals: its choice, one run of it, and that it tells faults."""

import os
import signal
from itertools import combinations
from types import SimpleNamespace

import pytest
import torch
from helpers.scripts import Result
from mmengine.runner.checkpoint import save_checkpoint

from campaigns import signals


@pytest.mark.parametrize("strength", [2, 3])
def test_every_combination_of_so_many_values_is_in_the_choice(strength):
    cases, chosen = signals.all_cases(), signals.few_cases(strength)
    assert len(set(chosen)) == len(chosen) < len(cases) / 5

    def parts(cases):
        return {part for case in cases for part in combinations(enumerate(case), strength)}

    assert parts(chosen) == parts(cases)


@pytest.mark.slow(reason="a training to its end, and two that get a signal")
def test_signals_lose_nothing(warm):
    cases = [
        signals.Case("SIGTERM", "group", "2", "load", "pipe without reader"),
        signals.Case("SIGKILL", "process", "0", "save", "file"),
    ]
    table, good = signals.run(warm, cases)
    assert good and "signals: 2 runs, 0 faults" in table, table


@pytest.mark.slow(reason="three trainings of two processes")
def test_processes_whose_launcher_is_killed_save_and_end(warm):
    cases = [
        signals.Case("SIGKILL", "launcher of two", "2 that persist", "train", "file"),
        signals.Case("SIGTERM", "launcher of two", "0", "train", "file"),
    ]
    table, good = signals.run(warm, cases)
    assert good and "signals: 2 runs, 0 faults" in table, table


@pytest.fixture
def campaign(tmp_path):
    campaign = object.__new__(signals.Campaign)
    (tmp_path / "whole").mkdir()
    campaign._wanted = {1: tmp_path / "whole"}
    save(tmp_path / "whole", "iter_6", 6, 0)
    save(tmp_path / "whole", "iter_7", 7)
    return campaign


def save(folder, name, iteration, epoch=1, weight=1.0):
    weights = dict(weight=torch.tensor([weight]))
    hub = dict(log_scalars={}, runtime_info=dict(epoch_begin=dict(iter=6)), resumed_keys={})
    checkpoint = dict(state_dict=weights, ema_state_dict=weights, optimizer=dict(state=weights))
    meta = dict(epoch=epoch, iter=iteration, time="20260101_120000")
    save_checkpoint(
        checkpoint | dict(meta=meta, message_hub=hub, param_schedulers=[dict(last_step=3)]),
        str(folder / f"{name}.pth"),
    )


CASE = signals.Case("SIGTERM", "process", "0", "train", "file")
READER = SimpleNamespace(read=lambda: None, text=lambda: "")


def faults(campaign, folder, case=CASE, code=143, done=6):
    ended = SimpleNamespace(poll=lambda: Result(code, "", ""), pid=2**22)
    return list(campaign._faults(ended, READER, folder, case, done))


def test_what_is_as_it_has_to_be_is_no_fault(campaign, tmp_path):
    save(tmp_path, "interrupted_iter_7", 7)
    assert faults(campaign, tmp_path) == []


@pytest.mark.parametrize(
    "fault", ["exit code 0", "lost: 6 iterations done, 0 saved", "ema_state_dict", "position"]
)
def test_what_is_not_is_one(campaign, tmp_path, fault):
    if not fault.startswith("lost"):
        weight = 2.0 if fault.startswith("ema") else 1.0
        save(
            tmp_path, "interrupted_iter_7", 7, epoch=0 if fault == "position" else 1, weight=weight
        )
    code = 0 if fault.startswith("exit") else 143
    (found,) = faults(campaign, tmp_path, code=code)
    assert fault in found


def test_a_lock_that_is_held_and_a_partial_file_are(campaign, tmp_path):
    save(tmp_path, "interrupted_iter_7", 7)
    (tmp_path / "iter_5.pth").write_bytes(b"PK")
    with signals.lock_folder(str(tmp_path)):
        found = faults(campaign, tmp_path)
    assert [fault.split(":")[0] for fault in found] == ["the lock is not free", "partial"]


def test_a_signal_that_was_not_sent_in_its_phase_is_none_that_was_tried(campaign, tmp_path):
    """The run ends before it gets there, or goes on before the signal."""
    (tmp_path / "marks").mkdir()
    ended = SimpleNamespace(poll=lambda: Result(0, "", ""))
    assert campaign._send(ended, READER, tmp_path, CASE).startswith("it ended with")
    (tmp_path / "marks/arrived.1").touch()
    (tmp_path / "marks/left").touch()
    sent = []
    runs = SimpleNamespace(poll=lambda: None, kill=lambda number, group: sent.append(number))
    assert campaign._send(runs, READER, tmp_path, CASE) == "it went on before the signal"
    (tmp_path / "marks/left").unlink()
    assert campaign._send(runs, READER, tmp_path, CASE) == 6 and sent == [signal.SIGTERM] * 2


def test_a_reader_takes_what_there_is_and_goes_away(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    reader = signals.Reader(tmp_path / "pipe")
    with open(tmp_path / "pipe", "w") as pipe:
        print("a line", file=pipe, flush=True)
        reader.read()
        assert reader.text() == "a line\n"
        reader.close()
        with pytest.raises(BrokenPipeError):
            print("lost", file=pipe, flush=True)
        os.dup2(os.open(os.devnull, os.O_WRONLY), pipe.fileno())
