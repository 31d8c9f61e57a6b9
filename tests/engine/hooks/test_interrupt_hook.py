"""Whatever ends a run while its state is whole, that is saved first; what is not its own stays."""

import os
import signal
import sys
import time
from itertools import count
from pathlib import Path

import pytest
import torch
from helpers.processes import run_processes
from mmengine.hooks import EMAHook

sys.path.append(str(Path(__file__).parent))
from test_safe_checkpoint_hook import (  # noqa: E402
    At,
    Line,
    Numbers,
    Scores,
    files,
    interrupt,
    interrupted,
    launched,
    newest,
    run,
    weights,
)

from mmhcgnet.checkpoints import read_checkpoint  # noqa: E402
from mmhcgnet.checkpoints.newest import find_newest  # noqa: E402
from mmhcgnet.checkpoints.run_lock import lock_folder  # noqa: E402
from mmhcgnet.engine.hooks.interrupt_hook import InterruptHook  # noqa: E402
from mmhcgnet.engine.runner.loops import ResumableEpochLoop, ResumableIterLoop  # noqa: E402
from mmhcgnet.errors import UsageError  # noqa: E402

SHORT = dict(type=ResumableEpochLoop, max_epochs=1)
LOOPS = dict(epoch=None, iter=dict(type=ResumableIterLoop, max_iters=16))


@pytest.fixture(autouse=True)
def _handlers():
    """Python's own, also where a shell has started the tests in the background, without Ctrl-C."""
    own = dict.fromkeys((signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1), signal.SIG_DFL)
    own[signal.SIGINT] = signal.default_int_handler
    former = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield
    assert {number: signal.getsignal(number) for number in own} == own
    for number, handler in former.items():
        signal.signal(number, handler)


def assert_goes_on_exactly(tmp_path, folder, **options):
    """Resume a run, and compare its end with that of one that was not interrupted."""
    run(tmp_path / "whole", **options)
    run(folder, resume=newest(folder), **options)
    last = newest(folder)
    assert os.path.basename(last) == os.path.basename(newest(tmp_path / "whole"))
    whole, parts = (
        weights(tmp_path, os.path.relpath(f, tmp_path)) for f in (newest(tmp_path / "whole"), last)
    )
    assert whole.keys() == parts.keys() and all(torch.equal(whole[k], parts[k]) for k in whole)


# Which signals


@pytest.mark.parametrize("name", ["SIGHUP", "SIGUSR1"])
def test_signals_of_terminals_and_schedulers_save(tmp_path, name):
    number = getattr(signal, name)
    at = At("before_train_iter", interrupt(number), iter=5)
    assert interrupted(tmp_path, at) == 128 + number
    assert files(tmp_path) == ["epoch_1.pth", "interrupted_iter_6.pth"]


def test_the_signals_are_an_argument(tmp_path):
    taken = []
    hook = InterruptHook(signals=["SIGUSR2"])

    def look(runner):
        numbers = (signal.SIGTERM, signal.SIGUSR2)
        taken.extend(signal.getsignal(number) == hook._receive for number in numbers)

    run(tmp_path, At("before_train_epoch", look), loop=SHORT, interrupt=hook)
    assert taken == [False, True]


@pytest.mark.parametrize("signals", ["SIGTERM", ["SIGKILL"], ["TERM"], [15]])
def test_names_that_are_none_of_signals_are_refused(signals):
    with pytest.raises(
        ValueError, match="signals of mmhcgnet.InterruptHook must be a list of names"
    ):
        InterruptHook(signals=signals)


@pytest.mark.parametrize("first", [signal.SIGTERM, signal.SIGINT])
def test_a_scheduler_may_repeat_its_signal_while_a_file_is_written(tmp_path, monkeypatch, first):
    fsync, now = os.fsync, [100.0]
    monkeypatch.setattr("mmhcgnet.engine.hooks.interrupt_hook.time.monotonic", lambda: now[0])

    def slow(descriptor):
        if "interrupted" in os.readlink(f"/proc/self/fd/{descriptor}"):
            now[0] += 10
            os.kill(os.getpid(), signal.SIGTERM)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", slow)
    assert interrupted(tmp_path, At("before_train_iter", interrupt(first), iter=5)) == 128 + first
    assert files(tmp_path) == ["epoch_1.pth", "interrupted_iter_6.pth"]


@pytest.mark.parametrize("kind", ["pipe", "closed"])
def test_saving_does_not_depend_on_a_message(tmp_path, kind):
    """At Ctrl-C the reader of a pipe, such as tee, ends, too."""
    before, (reader, writer) = os.dup(2), os.pipe()
    os.close(reader)
    try:
        os.dup2(writer, 2)
        if kind == "closed":
            os.close(2)
        at = At("before_train_iter", interrupt(signal.SIGINT), iter=5)
        code = interrupted(tmp_path, at)
    finally:
        os.dup2(before, 2)
        os.close(writer)
        os.close(before)
    assert code == 130 and files(tmp_path) == ["epoch_1.pth", "interrupted_iter_6.pth"]


# While the state is whole


class Fails(Numbers):
    """The data go away once, or the signal comes, in the second epoch."""

    def __init__(self, call):
        self.call, self.loaded = call, 0

    def __getitem__(self, index):
        self.loaded += 1
        if self.loaded == 12:
            self.call()
        return super().__getitem__(index)


def fail():
    raise OSError("gone")


@pytest.mark.parametrize("kind", LOOPS)
def test_what_cannot_be_loaded_ends_a_run_that_is_saved(tmp_path, kind):
    options = dict(loop=LOOPS[kind], by_epoch=kind == "epoch", interval=1 if kind == "epoch" else 4)
    with pytest.raises(UsageError, match="OSError: gone"):
        run(tmp_path / "parts", data=Fails(fail), **options)
    assert "interrupted_iter_5.pth" in files(tmp_path / "parts")
    assert_goes_on_exactly(tmp_path, tmp_path / "parts", **options)


def test_a_signal_while_a_batch_is_awaited_ends_at_once(tmp_path):
    def ask():
        interrupt(signal.SIGTERM)(None)
        pytest.fail("went on")

    assert interrupted(tmp_path / "parts", data=Fails(ask)) == 143
    assert files(tmp_path / "parts")[-1] == "interrupted_iter_5.pth"
    assert_goes_on_exactly(tmp_path, tmp_path / "parts")


def test_a_killed_worker_ends_a_run_that_is_saved(tmp_path):
    def kill(runner):
        for worker in runner.train_loop.dataloader._iterator._workers:
            worker.kill()
            worker.join()

    options = dict(workers=1, loader=dict(persistent_workers=True, prefetch_factor=1))
    with pytest.raises(RuntimeError, match="killed by signal|exited unexpectedly"):
        run(tmp_path / "parts", At("before_train_iter", kill, iter=4), **options)
    assert files(tmp_path / "parts")[-1] == "interrupted_iter_5.pth"
    assert_goes_on_exactly(tmp_path, tmp_path / "parts", workers=0)


class Hangs(Numbers):
    """In the second epoch a worker does not come back from its third image."""

    def __init__(self, epoch):
        self.epoch, self.loaded = epoch, 0

    def __getitem__(self, index):
        self.loaded += self.epoch.exists()
        if self.loaded == 3:
            time.sleep(600)
        return super().__getitem__(index)


@pytest.mark.slow(reason="waits for seconds")
def test_a_loader_that_times_out_ends_a_run_that_is_saved(tmp_path):
    epoch = tmp_path / "epoch"
    at = At("before_train_epoch", lambda runner: epoch.touch(), epoch=1)
    options = dict(workers=1, loader=dict(timeout=2), data=Hangs(epoch))
    with pytest.raises(RuntimeError, match="DataLoader timed out after 2 seconds"):
        run(tmp_path / "parts", at, **options)
    assert files(tmp_path / "parts")[-1] == "interrupted_iter_5.pth"
    assert_goes_on_exactly(tmp_path, tmp_path / "parts")


@pytest.mark.parametrize("stage", ["before_train_iter", "after_train_epoch"])
def test_a_scheduler_may_repeat_its_signal_at_any_time(tmp_path, monkeypatch, stage):
    now = [100.0]
    monkeypatch.setattr("mmhcgnet.engine.hooks.interrupt_hook.time.monotonic", lambda: now[0])

    def repeat(runner):
        for _ in range(3):
            interrupt(signal.SIGTERM)(runner)
            now[0] += 10

    when = dict(iter=5) if stage == "before_train_iter" else dict(epoch=1)
    assert interrupted(tmp_path / "parts", At(stage, repeat, **when)) == 143
    last = "interrupted_iter_6.pth" if stage == "before_train_iter" else "epoch_2.pth"
    assert files(tmp_path / "parts")[-1] == last
    assert_goes_on_exactly(tmp_path, tmp_path / "parts")


class Breaks(Scores):
    """Cannot compute its metric in the second validation."""

    def compute_metrics(self, results):
        score = super().compute_metrics(results)
        if score["accuracy"] == 2:
            raise OSError("gone")
        return score


@pytest.mark.parametrize("signalled", [False, True])
def test_the_end_of_a_validation_is_the_trained_state_before_it(tmp_path, signalled):
    """EMA's weights are in the model; the resumed run makes up for the validation."""
    options = dict(interval=10, metric=Scores)
    counted = []
    at = At("before_val_iter", interrupt(signal.SIGTERM), epoch=2)
    if signalled:
        assert interrupted(tmp_path / "parts", EMAHook(), at, scores=[1, 2], **options) == 143
    else:
        with pytest.raises(OSError, match="gone"):
            run(tmp_path / "parts", EMAHook(), scores=[1, 2], **(options | dict(metric=Breaks)))
    assert files(tmp_path / "parts") == ["interrupted_iter_8.pth"]
    count = At("before_val_epoch", lambda runner: counted.append(runner.epoch))
    run(tmp_path / "parts", EMAHook(), count, scores=[2, 3, 4], resume=newest(tmp_path / "parts"),
        **options)  # fmt: skip
    assert counted == [2, 3, 4]
    run(tmp_path / "whole", EMAHook(), scores=[1, 2, 3, 4], **options)
    for key in ("state_dict", "ema_state_dict"):
        whole, parts = (
            read_checkpoint(f"{tmp_path}/{f}/epoch_4.pth")[key] for f in ("whole", "parts")
        )
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_an_error_of_a_hook_saves_nothing(tmp_path):
    """It may have left the state half changed."""
    at = At("before_val_epoch", lambda runner: fail(), epoch=2)
    with pytest.raises(OSError, match="gone"):
        run(tmp_path, at, scores=[1, 2], interval=10)
    assert not files(tmp_path)


@pytest.mark.parametrize("kind", LOOPS)
def test_an_error_within_an_iteration_saves_nothing(tmp_path, monkeypatch, kind):
    """The process may go on, as in a notebook: it has its signals back, and others the folder."""
    forward, calls = Line.forward, count()

    def breaks(self, inputs, mode="tensor"):
        return fail() if next(calls) == 5 else forward(self, inputs, mode)

    monkeypatch.setattr(Line, "forward", breaks)
    with pytest.raises(OSError, match="gone"):
        run(
            tmp_path,
            loop=LOOPS[kind],
            interval=1 if kind == "epoch" else 4,
            by_epoch=kind == "epoch",
        )
    assert files(tmp_path) == ["epoch_1.pth" if kind == "epoch" else "iter_4.pth"]
    lock_folder(str(tmp_path)).close()


def lose_data_in_one(rank, folder):
    """The other process loses its connection within an iteration."""
    with pytest.raises(UsageError if rank == 1 else RuntimeError):
        run(f"{folder}/parts", data=Fails(fail) if rank == 1 else None, launched=launched(rank))


def go_on_in_two(rank, folder):
    run(f"{folder}/whole", launched=launched(rank))
    run(f"{folder}/parts", launched=launched(rank), resume=newest(f"{folder}/parts"))


def test_what_one_of_two_processes_cannot_load_ends_a_run_that_is_saved(warm, tmp_path):
    run_processes(warm, lose_data_in_one, tmp_path)
    assert newest(tmp_path / "parts") == f"{tmp_path}/parts/interrupted_iter_5.pth"
    (tmp_path / "meeting").unlink(missing_ok=True)
    run_processes(warm, go_on_in_two, tmp_path)
    assert files(tmp_path / "parts") == files(tmp_path / "whole")
    whole, parts = (weights(tmp_path, f"{name}/epoch_4.pth") for name in ("whole", "parts"))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_where_nothing_was_trained_nothing_is_saved(tmp_path):
    assert interrupted(tmp_path, At("before_train_epoch", interrupt(signal.SIGTERM))) == 143
    assert not files(tmp_path)
    run(tmp_path, loop=SHORT)
    # Nor anew what the run has resumed from.
    at = At("before_train_epoch", interrupt(signal.SIGTERM))
    assert interrupted(tmp_path, at, resume=newest(tmp_path)) == 143
    assert files(tmp_path) == ["epoch_1.pth"]


def test_a_full_disk_does_not_hide_the_error(tmp_path, monkeypatch):
    fsync = os.fsync

    def full(descriptor):
        if "interrupted" in os.readlink(f"/proc/self/fd/{descriptor}"):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UsageError, match="OSError: gone"):
        run(tmp_path, data=Fails(fail))
    assert files(tmp_path) == ["epoch_1.pth"]


# Which file is the newest, and whose it is


def stop_at(iteration):
    return At("before_train_iter", interrupt(signal.SIGTERM), iter=iteration)


@pytest.mark.parametrize("ahead", [86400.0, -86400.0 * 365])
def test_a_clock_that_was_wrong_once_does_not_make_a_run_go_back(tmp_path, monkeypatch, ahead):
    now, clock = time.time, [ahead]
    monkeypatch.setattr(time, "time", lambda: now() + clock[0])

    def right(runner):
        clock[0] = 0.0 if ahead > 0 else clock[0]

    def wrong(runner):
        clock[0] = 0.0 if runner.epoch < 2 else ahead

    at = At("before_train_epoch", right if ahead > 0 else wrong)
    first = At("before_train_epoch", right, epoch=1) if ahead > 0 else at
    assert interrupted(tmp_path, first, stop_at(9)) == 143
    assert newest(tmp_path) == f"{tmp_path}/interrupted_iter_10.pth"


def test_a_clock_that_was_wrong_is_told(tmp_path, monkeypatch, capsys):
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 86400)
    run(tmp_path, At("after_train_epoch", lambda _: monkeypatch.undo(), priority="LOWEST", epoch=0))
    capsys.readouterr()
    assert find_newest([str(tmp_path)]).iteration == 16
    assert "1 files (" in (said := capsys.readouterr().out) and "check the clock" in said


def test_another_run_in_the_folder_is_told_and_its_interrupted_checkpoint_stays(tmp_path, capsys):
    assert interrupted(tmp_path, stop_at(9)) == 143
    run(tmp_path, loop=SHORT)
    said = "another run (3 files (epoch_1.pth, epoch_2.pth, interrupted_iter_10.pth))"
    assert said in capsys.readouterr().out
    assert files(tmp_path) == ["epoch_1.pth", "epoch_2.pth", "interrupted_iter_10.pth"]
    # The newer run is resumed, although the other one has more iterations.
    assert newest(tmp_path) == f"{tmp_path}/epoch_1.pth"


def test_a_resumed_run_keeps_its_id_and_deletes_what_it_resumed_from(tmp_path):
    runs = set()
    for iteration in (4, 5, 6):
        saved = newest(tmp_path)
        assert interrupted(tmp_path, stop_at(iteration), resume=saved) == 143
        last = files(tmp_path, "interrupted*")
        assert last == [f"interrupted_iter_{iteration + 1}.pth"]  # they do not pile up
        info = read_checkpoint(newest(tmp_path))["message_hub"]["runtime_info"]
        runs.add(info["run_id"])
    assert len(runs) == 1
    run(tmp_path, resume=newest(tmp_path))
    assert files(tmp_path) == [f"epoch_{i}.pth" for i in range(1, 5)]


def test_a_run_that_goes_back_on_purpose_is_resumed_where_it_went_on(tmp_path, capsys):
    run(tmp_path)
    assert interrupted(tmp_path, stop_at(5), resume=f"{tmp_path}/epoch_1.pth") == 143
    assert "continues from iteration 4" in capsys.readouterr().out
    assert newest(tmp_path) == f"{tmp_path}/interrupted_iter_6.pth"


def test_a_second_run_in_the_folder_is_refused_until_the_first_has_ended(tmp_path):
    run(tmp_path)
    ready, tell = os.pipe()
    if not (pid := os.fork()):

        def wait(runner):
            os.write(tell, b"1")
            time.sleep(60)

        try:  # without a backward pass, whose threads a fork may lack
            run(tmp_path, At("before_train_iter", wait), resume=f"{tmp_path}/epoch_1.pth")
        finally:
            os._exit(1)
    os.close(tell)
    os.read(ready, 1)
    try:
        with pytest.raises(UsageError, match=rf"Another run trains in .*process {pid} on "):
            run(tmp_path)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    run(tmp_path, resume=newest(tmp_path))
    run(tmp_path, loop=SHORT)
