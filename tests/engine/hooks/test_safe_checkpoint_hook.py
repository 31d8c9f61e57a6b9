"""Whatever happens while a checkpoint is saved, what was saved before is there and whole."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import run_processes
from mmengine.config import ConfigDict
from mmengine.evaluator import BaseMetric
from mmengine.fileio import LocalBackend
from mmengine.hooks import EMAHook, Hook
from mmengine.model import BaseModel
from mmengine.registry import HOOKS
from mmengine.runner import Runner
from torch import nn
from torch.utils.data import Dataset

import mmhcgnet.engine.hooks.safe_checkpoint_hook as saving
from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.checkpoints.durable_files import _host
from mmhcgnet.checkpoints.newest import find_newest
from mmhcgnet.engine.hooks.interrupt_hook import InterruptHook
from mmhcgnet.engine.hooks.safe_checkpoint_hook import SafeCheckpointHook
from mmhcgnet.engine.runner.loops import ResumableEpochLoop, ResumableIterLoop
from mmhcgnet.errors import UsageError

BATCHES = 4


class Numbers(Dataset):
    def __len__(self):
        return BATCHES * 2

    def __getitem__(self, index):
        return dict(inputs=torch.tensor([index / 10, 1.0]))


class Line(BaseModel):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(2, 1)

    def forward(self, inputs, mode="tensor"):
        out = self.fc(torch.stack(inputs))
        return dict(loss=out.square().mean()) if mode == "loss" else [out.sum()]


class Scores(BaseMetric):
    """Gives the scores that it is told, one a validation."""

    def __init__(self, scores):
        super().__init__()
        self.scores = iter(scores)

    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        score = next(self.scores)
        return score if isinstance(score, dict) else dict(accuracy=score)


class At(Hook):
    """Calls a function at a moment of a run."""

    def __init__(self, stage, call, priority="NORMAL", **when):
        self.priority, self.when, self.call = priority, when, call
        setattr(self, stage, self._act)

    def get_triggered_stages(self):
        return [name for name in vars(self) if name in Hook.stages]

    def _act(self, runner, *args, **kwargs):
        if all(getattr(runner, key) == value for key, value in self.when.items()):
            self.call(runner)


def interrupt(*numbers):
    return lambda runner: [os.kill(os.getpid(), number) for number in numbers]


def run(
    folder,
    *hooks,
    loop=None,
    scores=None,
    resume=None,
    optim=None,
    workers=0,
    launched=None,
    data=None,
    loader=None,
    metric=Scores,
    interrupt=None,
    settings=None,
    **checkpoint,
):
    """Train a line; ``checkpoint`` are the arguments of the hook that saves."""
    loader = dict(
        batch_size=2,
        num_workers=workers,
        sampler=dict(type="DefaultSampler", shuffle=True),
        dataset=data or Numbers(),
    ) | (loader or {})
    validation = {}
    if scores is not None:
        validation = dict(val_cfg=dict(), val_dataloader=loader, val_evaluator=[metric(scores)])
    torch.manual_seed(0)
    runner = Runner(
        model=Line(),
        work_dir=str(folder),
        train_dataloader=loader,
        train_cfg=loop or dict(type=ResumableEpochLoop, max_epochs=4),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1, momentum=0.9)) | (optim or {}),
        default_hooks=dict(
            checkpoint=dict(type=SafeCheckpointHook, interval=1) | checkpoint, **(settings or {})
        ),
        custom_hooks=[interrupt or InterruptHook(), *hooks],
        randomness=dict(seed=0),
        load_from=resume,
        resume=resume is not None,
        experiment_name=f"{folder}-{os.urandom(4).hex()}",
        log_level="WARNING",
        **validation,
        **(launched or {}),
    )
    runner.train()
    return runner


def files(folder, pattern="*.pth"):
    return sorted(path.name for path in Path(folder).glob(pattern))


def newest(folder):
    newest = find_newest([str(folder)])
    return newest and newest.path


# Saving


def test_everything_saved_is_whole_and_the_pointer_names_the_last(tmp_path):
    run(tmp_path, scores=[1, 3, 2, 1], save_best="accuracy", published_keys=["state_dict"])
    names = files(tmp_path)
    published = [name for name in names if "-" in name]
    assert {name.split("-")[0] for name in published} == {"epoch_4", "best_accuracy_epoch_2"}
    others = ["best_accuracy_epoch_2.pth", *(f"epoch_{i}.pth" for i in range(1, 5))]
    assert sorted({*names} - {*published}) == others
    for name in names:
        assert (tmp_path / name).read_bytes()[-80:].startswith(b"mmhcgnet sha256")
        read_checkpoint(str(tmp_path / name))
    for name in published:
        assert set(read_checkpoint(str(tmp_path / name))) == {"state_dict"}
    assert (tmp_path / "last_checkpoint").read_text() == f"{tmp_path}/epoch_4.pth"
    assert not files(tmp_path, ".*")


@pytest.mark.parametrize("keep", [1, 3])
def test_the_old_ones_go_only_when_the_new_one_and_the_pointer_are_there(
    tmp_path, monkeypatch, keep
):
    removed = []

    def remove(self, path):
        removed.append(os.path.basename(path))
        last = (tmp_path / "last_checkpoint").read_text()
        read_checkpoint(last)
        assert files(tmp_path, "epoch_*.pth")[-1] == os.path.basename(last)
        assert len(files(tmp_path, "epoch_*.pth")) == keep + 1
        os.remove(path)

    monkeypatch.setattr(LocalBackend, "remove", remove)
    run(tmp_path, max_keep_ckpts=keep)
    assert removed == [f"epoch_{i}.pth" for i in range(1, 5 - keep)]


def test_the_former_best_goes_after_the_new_one_and_the_last_are_there(tmp_path, monkeypatch):
    removed = []

    def remove(self, path):
        name = os.path.basename(path)
        if name.startswith("best"):
            removed.append(name)
            new = set(files(tmp_path, "best*")) - {name}
            last = read_checkpoint((tmp_path / "last_checkpoint").read_text())
            assert {os.path.basename(last["message_hub"]["runtime_info"]["best_ckpt"])} == new
        os.remove(path)

    monkeypatch.setattr(LocalBackend, "remove", remove)
    run(tmp_path, scores=[1, 3, 2, 4], save_best="auto", rule="greater", max_keep_ckpts=1)
    assert removed == ["best_accuracy_epoch_1.pth", "best_accuracy_epoch_2.pth"]
    assert files(tmp_path) == ["best_accuracy_epoch_4.pth", "epoch_4.pth"]


def test_several_metrics_have_a_best_each(tmp_path):
    scores = [dict(a=1, b=4), dict(a=2, b=3), dict(a=0, b=6), dict(a=0, b=0)]
    run(tmp_path, scores=scores, save_best=["a", "b"], rule="greater")
    assert files(tmp_path, "best*") == ["best_a_epoch_2.pth", "best_b_epoch_3.pth"]


class Killed(Exception):
    """Stands for a kill: nothing of the hook runs after it."""


def kill(*_, **__):
    raise Killed


def test_a_run_killed_before_it_could_delete_does_so_when_it_resumes(tmp_path, monkeypatch):
    options = dict(save_best="accuracy", max_keep_ckpts=1)
    scores = [1, 0, 2, 0]
    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(LocalBackend, "remove", kill)
        run(tmp_path, scores=scores, **options)
    assert files(tmp_path) == ["best_accuracy_epoch_1.pth", "epoch_1.pth", "epoch_2.pth"]
    # The loop makes up for the validation that the kill has prevented, here before it goes on.
    after_val_epoch = saving.SafeCheckpointHook.after_val_epoch

    def kill_at_the_best(hook, runner, metrics):
        if metrics["accuracy"] == 2:
            raise Killed
        after_val_epoch(hook, runner, metrics)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(saving.SafeCheckpointHook, "after_val_epoch", kill_at_the_best)
        run(tmp_path, resume=newest(tmp_path), scores=scores[1:], **options)
    assert files(tmp_path) == ["best_accuracy_epoch_1.pth", "epoch_3.pth"]
    run(tmp_path, resume=newest(tmp_path), scores=scores[2:], **options)
    assert files(tmp_path) == ["best_accuracy_epoch_3.pth", "epoch_4.pth"]


def test_a_run_killed_before_it_could_point_at_its_last_checkpoint_does_so(tmp_path, monkeypatch):
    pointer = tmp_path / "last_checkpoint"

    def kill_at_the_last(path, content):
        if content.endswith(b"epoch_4.pth"):
            raise Killed
        pointer.write_bytes(content)

    with monkeypatch.context() as patched, pytest.raises(Killed):
        patched.setattr(saving, "write_atomically", kill_at_the_last)
        run(tmp_path, max_keep_ckpts=1)
    assert pointer.read_text() == f"{tmp_path}/epoch_3.pth"
    run(tmp_path, resume=newest(tmp_path), max_keep_ckpts=1)
    assert pointer.read_text() == f"{tmp_path}/epoch_4.pth"
    assert files(tmp_path) == ["epoch_4.pth"]


def test_files_of_a_folder_that_was_moved_are_known_by_their_names(tmp_path):
    options = dict(save_best="accuracy", max_keep_ckpts=2)
    with pytest.raises(Killed):
        at = At("before_train_epoch", kill, epoch=2)
        run(tmp_path / "old", at, scores=[1, 2], **options)
    os.rename(tmp_path / "old", tmp_path / "new")
    run(tmp_path / "new", scores=[0, 3], resume=newest(tmp_path / "new"), **options)
    names = ["best_accuracy_epoch_4.pth", "epoch_3.pth", "epoch_4.pth"]
    assert files(tmp_path / "new") == names
    assert not (tmp_path / "old").exists()


def test_a_checkpoint_cannot_have_other_things_deleted(tmp_path):
    """It names what its run still had to delete, and anyone may have written it."""
    work, victim, beside = tmp_path / "work", tmp_path / "victim", tmp_path / "epoch_9.pth"
    run(tmp_path / "first", loop=dict(type=ResumableEpochLoop, max_epochs=1), max_keep_ckpts=1)
    kept = [victim / "file", beside, work / "notes.txt", work / "epoch_7.pth/folder/file"]
    kept += [work / "best_notes.txt", work / "epoch_x.pth", work / "1.pth"]
    gone = [work / "epoch_8.pth", work / "interrupted_iter_3.pth", work / "best_a_epoch_3.pth"]
    gone += [work / "epoch_6.pth/rank0.pth"]
    for path in (*kept, *gone):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("here")
    checkpoint = read_checkpoint(newest(tmp_path / "first"))
    info = checkpoint["message_hub"]["runtime_info"]
    names = [str(victim), "../victim", "../epoch_9.pth", "notes.txt", "epoch_7.pth", "", ".", 3]
    names += ["best_notes.txt", "epoch_x.pth", "best_/../../epoch_9.pth", "1.pth", None]
    names += ["epoch_8.pth", "interrupted_iter_3.pth", "best_a_epoch_3.pth", "epoch_6.pth"]
    info.update(outdated_ckpts=names, keep_ckpt_ids=["/../../victim", "7", 7, 1.5, None, 1])
    info.update(best_ckpt=str(work / "notes.txt"), last_ckpt=[str(victim)])
    hostile = tmp_path / "hostile.pth"
    torch.save(checkpoint, hostile)
    run(work, resume=str(hostile), scores=[1, 2, 3, 4], save_best="accuracy", max_keep_ckpts=1)
    assert all(path.read_text() == "here" for path in kept)
    assert not any(path.exists() for path in gone)
    assert files(work, "epoch_?.pth") == ["epoch_4.pth", "epoch_7.pth", "epoch_x.pth"]


def test_what_nobody_could_read_back_ends_the_run_at_its_first_save(tmp_path):
    def spoil(runner):
        runner.message_hub.update_info("begun", datetime(2026, 1, 1))

    with pytest.raises(UsageError, match=r"cannot be read back, .*it asks for datetime\.datetime"):
        run(tmp_path, At("before_train_epoch", spoil))
    assert files(tmp_path) == ["epoch_1.pth"]


def test_harmless_values_of_a_hook_are_saved_and_taken_over(tmp_path):
    """MMEngine keeps a dict in metainfo as a ConfigDict, and NumPy's are what metrics give."""
    values = [ConfigDict(one="red"), defaultdict(list, a=[1]), np.str_("text"), np.float32(2)]

    def note(runner):
        runner.message_hub.update_info("noted", values)

    run(tmp_path, At("before_train_epoch", note), loop=dict(type=ResumableEpochLoop, max_epochs=1))
    resumed = run(tmp_path, resume=newest(tmp_path))
    assert resumed.message_hub.get_info("noted") == [dict(one="red"), dict(a=[1]), "text", 2.0]
    assert resumed.epoch == 4


@pytest.mark.parametrize("value", [None, 3, "epoch_1.pth", dict(a=1), ["a", 3]])
def test_odd_values_in_the_hub_name_no_files(tmp_path, value):
    run(tmp_path, loop=dict(type=ResumableEpochLoop, max_epochs=1), max_keep_ckpts=1)
    checkpoint = read_checkpoint(newest(tmp_path))
    keys = ("outdated_ckpts", "keep_ckpt_ids", "last_ckpt", "best_ckpt")
    checkpoint["message_hub"]["runtime_info"].update(dict.fromkeys(keys, value))
    torch.save(checkpoint, tmp_path / "odd.pth")
    run(tmp_path, resume=str(tmp_path / "odd.pth"), max_keep_ckpts=2)
    assert files(tmp_path, "epoch_*.pth")[-2:] == ["epoch_3.pth", "epoch_4.pth"]


def test_what_a_killed_run_was_writing_is_removed_at_the_next_start(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".epoch_1.pth.{_host()}.{dead.pid}.mmhcgnet.tmp").write_bytes(b"PK")
    run(tmp_path, loop=dict(type=ResumableEpochLoop, max_epochs=1))
    assert not files(tmp_path, ".*.tmp")


def test_arguments_of_mmengines_hook_hold(tmp_path):
    runner = run(
        tmp_path / "run",
        loop=dict(type=ResumableIterLoop, max_iters=9),
        out_dir=tmp_path / "out",
        by_epoch=False,
        interval=2,
        save_begin=3,
        filename_tmpl="at_{}.pth",
        save_optimizer=False,
        save_param_scheduler=False,
    )
    assert files(tmp_path / "out" / "run") == ["at_3.pth", "at_5.pth", "at_7.pth", "at_9.pth"]
    checkpoint = read_checkpoint((tmp_path / "run" / "last_checkpoint").read_text())
    assert "optimizer" not in checkpoint and "param_schedulers" not in checkpoint
    assert (checkpoint["meta"]["epoch"], checkpoint["meta"]["iter"]) == (0, 9)
    assert 0 <= time.time() - checkpoint["meta"]["unix_time"] < 60
    assert torch.equal(checkpoint["state_dict"]["fc.weight"], runner.model.fc.weight)


def test_another_backend_is_used_as_it_is(tmp_path, monkeypatch):
    paths = []

    class Noting(LocalBackend):
        def put(self, obj, filepath):
            paths.append(os.path.basename(filepath))
            super().put(obj, filepath)

    from mmengine.fileio.backends import registry_utils

    monkeypatch.setitem(registry_utils.backends, "noting", Noting)
    options = dict(backend_args=dict(backend="noting"), published_keys="state_dict")
    run(tmp_path, max_keep_ckpts=1, **options)
    assert paths == [f"epoch_{i}.pth" for i in range(1, 5)]
    published, last = files(tmp_path)
    assert last == "epoch_4.pth" and published.startswith("epoch_4-")


# What is not saved


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("ema", [False, True])
def test_weights_that_are_not_finite_are_not_saved(tmp_path, value, ema):
    hooks = [EMAHook()] if ema else []

    def spoil(runner):
        with torch.no_grad():
            (hooks[0].ema_model.module if ema else runner.model).fc.bias.fill_(value)

    at = At("before_save_checkpoint", spoil, priority="HIGHEST", epoch=2)
    match = r"iteration 12: 1 of the weights not finite \((module\.)?fc\.bias\).*newest: .*_2\.pth"
    with pytest.raises(UsageError, match=match):
        run(tmp_path, *hooks, at, max_keep_ckpts=1)
    assert files(tmp_path) == ["epoch_2.pth"]
    assert newest(tmp_path) == f"{tmp_path}/epoch_2.pth"


@pytest.mark.parametrize("value", [float("-inf"), float("inf")])
@pytest.mark.parametrize("ema", [False, True])
def test_a_buffer_that_is_infinite_by_design_is_saved(tmp_path, value, ema):
    # As masks of attention are.
    mask = At(
        "before_run", lambda runner: runner.model.register_buffer("mask", torch.full((3,), value))
    )
    run(tmp_path, mask, *([EMAHook()] if ema else []), max_keep_ckpts=1)
    assert (
        torch.load(newest(tmp_path), weights_only=False)["state_dict"]["mask"].tolist()
        == [value] * 3
    )


@pytest.mark.parametrize("best", [False, True])
def test_a_full_disk_loses_nothing_and_is_explained(tmp_path, monkeypatch, best):
    fsync = os.fsync

    def full(descriptor):
        name = os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}"))
        if name.startswith(".best_accuracy_epoch_3" if best else ".epoch_3"):
            raise OSError(28, "No space left on device")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    what = "The best checkpoint" if best else r"The checkpoint .*/epoch_3\.pth"
    newest_name = "epoch_3" if best else "epoch_2"
    match = rf"{what} could not be written \(No space left.*newest: .*/{newest_name}\.pth\)"
    with pytest.raises(UsageError, match=match):
        run(tmp_path, scores=[0, 1, 2], save_best="accuracy", max_keep_ckpts=1)
    assert files(tmp_path) == ["best_accuracy_epoch_2.pth", f"{newest_name}.pth"]
    for name in files(tmp_path):
        read_checkpoint(str(tmp_path / name))
    assert not files(tmp_path, ".*.tmp")


def test_a_disk_that_was_full_from_the_start_is_explained(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(UsageError, match=r"epoch_1\.pth could not .*nothing was saved earlier"):
        run(tmp_path)


# Signals


@pytest.fixture(autouse=True)
def handlers():
    """Python's own, also where a shell has started the tests in the background, without Ctrl-C."""
    own = {signal.SIGTERM: signal.SIG_DFL, signal.SIGINT: signal.default_int_handler}
    former = {number: signal.signal(number, handler) for number, handler in own.items()}
    yield own
    for number, handler in former.items():
        signal.signal(number, handler)


def interrupted(*args, **kwargs):
    with pytest.raises(SystemExit) as end:
        run(*args, **kwargs)
    return end.value.code


def weights(folder, name):
    return read_checkpoint(str(folder / name))["state_dict"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("iteration", [5, 7, 8])
@pytest.mark.parametrize("by_epoch", [True, False])
def test_a_signal_saves_and_ends_and_the_run_resumes(
    tmp_path, number, iteration, by_epoch, handlers
):
    options = dict(
        loop=None if by_epoch else dict(type=ResumableIterLoop, max_iters=16),
        by_epoch=by_epoch,
        interval=1 if by_epoch else 4,
    )
    run(tmp_path / "whole", **options)
    at = At("before_train_iter", interrupt(number), iter=iteration)
    folder = tmp_path / "parts"
    assert interrupted(folder, at, **options) == 128 + number
    assert {n: signal.getsignal(n) for n in handlers} == handlers
    done = iteration + 1
    saved = newest(folder)
    # The end of an epoch is saved as ever, and nothing else beside it.
    regular = f"epoch_{done // 4}.pth" if by_epoch else f"iter_{done}.pth"
    name = f"interrupted_iter_{done}.pth" if done % 4 else regular
    assert saved == f"{folder}/{name}" == (folder / "last_checkpoint").read_text()
    meta = read_checkpoint(saved)["meta"]
    assert (meta["epoch"], meta["iter"]) == (done // 4 if by_epoch else 0, done)
    run(folder, resume=saved, **options)
    # The next regular checkpoint has replaced it.
    assert files(folder) == files(tmp_path / "whole")
    last = files(folder, "epoch_4.pth" if by_epoch else "iter_16.pth")[0]
    whole, parts = weights(tmp_path / "whole", last), weights(folder, last)
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_gradients_that_are_accumulated_are_not_lost(tmp_path):
    at = At("before_train_iter", interrupt(signal.SIGTERM), iter=4)
    code = interrupted(tmp_path, at, optim=dict(accumulative_counts=2))
    assert code == 143
    assert files(tmp_path, "interrupted*") == ["interrupted_iter_6.pth"]


def test_a_second_signal_of_the_same_moment_is_the_same(tmp_path):
    at = At("before_train_iter", interrupt(signal.SIGINT, signal.SIGINT), iter=4)
    assert interrupted(tmp_path, at) == 130
    assert files(tmp_path, "interrupted*") == ["interrupted_iter_5.pth"]


def test_a_later_second_signal_ends_at_once(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(saving.time, "monotonic", lambda: now[0])

    def later(runner):
        interrupt(signal.SIGTERM)(runner)
        now[0] += 2
        interrupt(signal.SIGINT)(runner)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, At("before_train_iter", later, iter=5))
    assert files(tmp_path) == ["epoch_1.pth"]


@pytest.mark.parametrize("interval, saved", [(1, "epoch_2"), (10, "interrupted_iter_8")])
def test_a_signal_in_a_validation(tmp_path, interval, saved):
    """It ends at once, with EMA undone if that is still to be saved."""
    ema, seen = EMAHook(), []
    count = At("before_val_iter", seen.append, epoch=2)
    at = At("before_val_epoch", interrupt(signal.SIGTERM), epoch=2)
    assert interrupted(tmp_path, ema, at, count, scores=[0, 1], interval=interval) == 143
    assert len(seen) == 1
    assert newest(tmp_path) == f"{tmp_path}/{saved}.pth"
    run(
        tmp_path / "whole",
        EMAHook(),
        loop=dict(type=ResumableEpochLoop, max_epochs=2),
        scores=[0, 1],
    )
    for key in ("state_dict", "ema_state_dict"):
        whole = read_checkpoint(f"{tmp_path}/whole/epoch_2.pth")[key]
        parts = read_checkpoint(f"{tmp_path}/{saved}.pth")[key]
        assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_signal_after_the_last_epoch_still_gives_its_exit_code(tmp_path):
    at = At("after_train", interrupt(signal.SIGTERM))
    assert interrupted(tmp_path, at) == 143
    assert files(tmp_path)[-1] == "epoch_4.pth"


def launched(rank):
    os.environ["LOCAL_RANK"] = str(rank)
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None)
    return dict(launcher="pytorch", cfg=dict(model_wrapper_cfg=wrapper))


def end_together(rank, folder):
    signalled = int(Path(folder, "signalled").read_text())
    at = At("before_train_iter", interrupt(signal.SIGTERM), iter=4)
    hooks = [at] if rank == signalled else []
    assert interrupted(f"{folder}/run", *hooks, launched=launched(rank)) == 143


@pytest.mark.parametrize("rank", [0, 1])
def test_all_processes_end_alike_when_one_gets_the_signal(warm, tmp_path, rank):
    (tmp_path / "signalled").write_text(str(rank))
    run_processes(warm, end_together, tmp_path)
    # An epoch has half of the batches for each: iteration 5 is the first of the third.
    assert files(tmp_path / "run") == ["epoch_1.pth", "epoch_2.pth", "interrupted_iter_5.pth"]


def test_handlers_are_back_after_training(tmp_path, handlers):
    taken = []
    at = At("before_train_epoch", lambda _: taken.append(signal.getsignal(signal.SIGTERM)))
    run(tmp_path, at)
    assert taken[0] != handlers[signal.SIGTERM]
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_an_ignored_signal_stays_ignored(tmp_path):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run(tmp_path, At("before_train_iter", interrupt(signal.SIGINT), iter=5))
    assert files(tmp_path)[-1] == "epoch_4.pth"


def test_workers_neither_save_nor_die_of_a_terminals_sigint(tmp_path):
    def all_of_them(runner):
        children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
        assert children
        for pid in (*map(int, children), os.getpid()):
            os.kill(pid, signal.SIGINT)

    at = At("before_train_iter", all_of_them, iter=5)
    assert interrupted(tmp_path, at, workers=1) == 130
    assert files(tmp_path, "interrupted*") == ["interrupted_iter_6.pth"]


def test_a_forked_child_can_still_be_terminated(tmp_path):
    codes = []

    def fork(runner):
        ready, tell = os.pipe()
        if pid := os.fork():
            os.read(ready, 1)
            os.kill(pid, signal.SIGTERM)
            codes.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
        else:
            os.write(tell, b"1")
            time.sleep(20)
            os._exit(0)

    run(tmp_path, At("before_train_iter", fork, iter=1))
    assert codes == [-signal.SIGTERM]


def test_in_another_thread_the_hook_leaves_signals_alone(tmp_path, handlers):
    thread = threading.Thread(target=run, args=[tmp_path])
    thread.start()
    thread.join()
    assert files(tmp_path)[-1] == "epoch_4.pth"
    assert {number: signal.getsignal(number) for number in handlers} == handlers


def test_without_a_hook_that_saves_signals_act_as_ever(tmp_path):
    at = At("before_train_iter", interrupt(signal.SIGINT), iter=5)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, at, type="CheckpointHook")


def test_configs_name_them():
    assert HOOKS.get("mmhcgnet.SafeCheckpointHook") is SafeCheckpointHook
    assert HOOKS.get("mmhcgnet.InterruptHook") is InterruptHook
