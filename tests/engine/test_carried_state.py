"""What a resumed run needs and MMEngine does not save."""

import logging
import os
import signal
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from helpers.processes import run_processes
from mmengine.hooks import EarlyStoppingHook, EMAHook
from torch import nn

sys.path.append(str(Path(__file__).parent / "hooks"))
from test_safe_checkpoint_hook import (  # noqa: E402
    At,
    Numbers,
    files,
    interrupt,
    interrupted,
    newest,
    run,
)

from mmhcgnet.checkpoints import read_checkpoint  # noqa: E402
from mmhcgnet.engine import carried_state  # noqa: E402
from mmhcgnet.engine.runner.loops import ResumableEpochLoop, ResumableIterLoop  # noqa: E402
from mmhcgnet.errors import UsageError  # noqa: E402


class Killed(Exception):
    pass


def kill(runner):
    raise Killed


def state(folder, name):
    checkpoint = read_checkpoint(str(folder / name))
    momentum = checkpoint["optimizer"]["state"][0]["momentum_buffer"]
    return {**checkpoint["state_dict"], "momentum": momentum}


def assert_same(left, right):
    assert left.keys() == right.keys()
    for key, value in left.items():
        assert torch.equal(value, right[key]), key


@pytest.mark.parametrize("epoch", [1, 2, 3])
def test_gradients_that_an_epoch_leaves_are_carried_over(tmp_path, epoch):
    """Of three iterations each, with four in an epoch."""
    optim = dict(optim=dict(accumulative_counts=3))
    run(tmp_path / "whole", **optim)
    with pytest.raises(Killed):
        run(tmp_path / "parts", At("before_train_iter", kill, epoch=epoch), **optim)
    carried = read_checkpoint(newest(tmp_path / "parts"))[carried_state.CARRIED]
    assert ("gradients" in carried) == (epoch != 3)
    run(tmp_path / "parts", resume=newest(tmp_path / "parts"), **optim)
    whole, parts = (state(tmp_path / name, "epoch_4.pth") for name in ("whole", "parts"))
    assert_same(whole, parts)


def test_early_stopping_counts_on(tmp_path):
    """A run that is preempted in every epoch stops where one that is not does."""
    scores = [5, 4, 3, 2, 1, 0]
    loop = dict(type=ResumableEpochLoop, max_epochs=6)

    def stopping():
        return EarlyStoppingHook("accuracy", rule="greater", min_delta=0.1, patience=2)

    run(tmp_path / "whole", stopping(), scores=scores, loop=loop)
    assert files(tmp_path / "whole")[-1] == "epoch_3.pth"
    for done in (4, 8, 12):
        saved = newest(tmp_path / "parts")
        at = At("before_train_iter", interrupt(signal.SIGTERM), iter=done)
        first = 0 if saved is None else done // 4 - 1
        if done < 12:
            assert interrupted(tmp_path / "parts", stopping(), at, scores=scores[first:], loop=loop,
                               resume=saved) == 143  # fmt: skip
        else:
            run(tmp_path / "parts", stopping(), at, scores=scores[first:], loop=loop, resume=saved)
    assert files(tmp_path / "parts")[-1] == "epoch_3.pth"


def preempt_two(rank, folder):
    """Two processes: a run that is preempted in its first epochs, and one that is not."""
    os.environ["LOCAL_RANK"] = str(rank)
    wrapper = dict(type="MMDistributedDataParallel", device_ids=None)
    launched = dict(launcher="pytorch", cfg=dict(model_wrapper_cfg=wrapper))
    loop, scores = dict(type=ResumableEpochLoop, max_epochs=6), [5, 4, 3, 2, 1, 0]
    options = dict(loop=loop, launched=launched, optim=dict(accumulative_counts=2))

    def stopping():
        return EarlyStoppingHook("accuracy", rule="greater", min_delta=0.1, patience=2)

    run(Path(folder, "whole"), stopping(), scores=scores, **options)
    parts, saved = Path(folder, "parts"), None
    for done in (2, 4):  # two batches in each epoch
        at = At("before_train_iter", interrupt(signal.SIGTERM), iter=done)
        hooks = [at] if rank == 1 else []  # one gets the signal, and all end
        first = 0 if saved is None else done // 2 - 1
        code = interrupted(
            parts, stopping(), *hooks, scores=scores[first:], resume=saved, **options
        )
        assert code == 143
        torch.distributed.barrier()
        saved = newest(parts)
    run(parts, stopping(), scores=scores[2:], resume=saved, **options)


def test_two_processes_resume_exactly_too(warm, tmp_path):
    """With early stopping, and gradients that are accumulated over as many batches as an epoch."""
    run_processes(warm, preempt_two, tmp_path)
    assert files(tmp_path / "whole")[-1] == files(tmp_path / "parts")[-1] == "epoch_3.pth"
    assert_same(*(state(tmp_path / name, "epoch_3.pth") for name in ("whole", "parts")))


@pytest.mark.parametrize("processes, interval, told", [(2, 1, True), (2, 3, False), (1, 1, False)])
def test_several_processes_that_save_between_two_steps_are_told(
    tmp_path, monkeypatch, capsys, processes, interval, told
):
    monkeypatch.setattr(carried_state, "get_world_size", lambda: processes)
    run(tmp_path, optim=dict(accumulative_counts=3), interval=interval)
    said = "every 4 iterations is not exact, as that is no multiple of accumulative_counts=3"
    assert (said in capsys.readouterr().out) == told


class BatchSyncRandomResize(nn.Module):
    """Keeps a size, as MMDetection's does."""

    def __init__(self, size=None):
        super().__init__()
        self._input_size, self._interval = size, 10


def fake(size=None, hooks=()):
    model = nn.Sequential(BatchSyncRandomResize(size))
    wrapper = SimpleNamespace(should_update=lambda: True)
    return SimpleNamespace(model=model, hooks=list(hooks), optim_wrapper=wrapper)


def test_the_size_of_batches_is_carried_over():
    carried = carried_state.collect(fake((320, 480)))
    assert carried == dict(input_sizes={"0": [320, 480]})
    resumed = fake()
    carried_state.restore(resumed, carried)
    assert resumed.model[0]._input_size == (320, 480)


@pytest.mark.parametrize(
    "resumed, iteration, processes, told",
    [(True, 9, 2, True), (True, 10, 2, False), (True, 9, 1, False), (False, 0, 2, False)],
)
def test_sizes_of_first_batches_are_told(monkeypatch, caplog, resumed, iteration, processes, told):
    monkeypatch.setattr(carried_state, "get_world_size", lambda: processes)
    logger = logging.getLogger("sizes")
    model = fake().model
    runner = SimpleNamespace(model=model, _resume=resumed, iter=iteration, logger=logger)
    carried_state.warn_of_first_sizes(runner)
    assert ("not exact if the first batches of its processes" in caplog.text) == told


def test_mmdetections_resize_has_what_is_carried():
    from mmdet.models import BatchSyncRandomResize as Resize

    resize = Resize((320, 640), interval=7)
    assert resize._input_size is None and resize._interval == 7
    assert Resize.__name__ == "BatchSyncRandomResize"


@pytest.mark.parametrize(
    "carried",
    [None, 3, [], dict(gradients=3, early_stopping=dict(), input_sizes=[]),
     dict(gradients={"0": 3, "fc.weight": torch.ones(9)}, early_stopping=[3, ["a", 1.0]]),
     dict(input_sizes={"0": ["a", 1]}), dict(input_sizes={"0": [-1, 3]})],
)  # fmt: skip
def test_odd_values_of_a_file_are_left_out(carried):
    hook = EarlyStoppingHook("accuracy", rule="greater")
    runner = fake((1, 2), [hook])
    carried_state.restore(runner, carried)
    assert runner.model[0]._input_size == (1, 2) and hook.wait_count == 0


# The position, and what it means


@pytest.mark.parametrize("by_epoch", [True, False])
def test_fewer_epochs_than_are_trained_are_refused(tmp_path, by_epoch):
    def loop(most):
        kind = ResumableEpochLoop if by_epoch else ResumableIterLoop
        return dict(type=kind, **{"max_epochs" if by_epoch else "max_iters": most})

    at = At("before_train_iter", interrupt(signal.SIGTERM), iter=9)
    assert interrupted(tmp_path, at, loop=loop(16), by_epoch=by_epoch) == 143
    with pytest.raises(
        UsageError, match="has trained (2 epochs and 2 batches|10 iterations), more"
    ):
        run(tmp_path, loop=loop(2 if by_epoch else 8), resume=newest(tmp_path))


def test_a_run_that_is_done_may_be_resumed(tmp_path):
    run(tmp_path)
    run(tmp_path, resume=newest(tmp_path))
    assert files(tmp_path)[-1] == "epoch_4.pth"


@pytest.mark.parametrize("by_epoch", [True, False])
def test_other_batches_of_the_same_number_are_told(tmp_path, capsys, by_epoch):
    """Eight images in batches of two, and then four of one each."""
    loop = None if by_epoch else dict(type=ResumableIterLoop, max_iters=16)
    at = At("before_train_iter", interrupt(signal.SIGTERM), iter=5)
    assert interrupted(tmp_path, at, loop=loop, by_epoch=by_epoch) == 143
    capsys.readouterr()
    data = torch.utils.data.Subset(Numbers(), range(4))
    run(tmp_path, loop=loop, by_epoch=by_epoch, resume=newest(tmp_path), data=data,
        loader=dict(batch_size=1))  # fmt: skip
    said = capsys.readouterr().out
    assert "images 8 (now 4), batch size 2 (now 1)" in said
    assert ("starts over" in said) == by_epoch


def test_without_ema_a_resumed_run_takes_the_trained_weights(tmp_path, capsys):
    from mmhcgnet import StrictLoadHook

    strict = StrictLoadHook()
    with pytest.raises(Killed):
        run(tmp_path, EMAHook(momentum=0.5), At("before_train_iter", kill, epoch=1))
    saved, seen = read_checkpoint(newest(tmp_path)), []
    look = At("before_train_epoch", lambda r: seen.append(r.model.fc.weight.clone()), epoch=1)
    run(tmp_path, strict, look, resume=newest(tmp_path))
    assert torch.equal(seen[0], saved["ema_state_dict"]["module.fc.weight"])
    assert not torch.equal(seen[0], saved["state_dict"]["fc.weight"])
    assert "the averaged ones are not used" in capsys.readouterr().out
