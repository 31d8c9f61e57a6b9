"""Sends every signal to every process of a run in every phase, and looks at what is saved.

A run stands still in the phase until its signal was sent (see :mod:`campaigns.pauses`); one that
never got there counts as a fault. What it leaves is compared with a run that was not interrupted,
bit for bit: weights, averaged weights, optimiser, schedules and position.

python -m campaigns.signals               # every pair of values of two factors
python -m campaigns.signals --strength 3  # every triple of values of three factors
python -m campaigns.signals --strength 5  # every combination: hours
"""

from __future__ import annotations

import argparse
import errno
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import combinations, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.distributed.run as torchrun
from helpers.scripts import session_members
from helpers.warm import Run, Warm
from PIL import Image

from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.checkpoints.newest import find_newest
from mmhcgnet.checkpoints.run_lock import lock_folder
from mmhcgnet.errors import UsageError

from . import pauses, piped

ROOT = Path(__file__).parents[1]
FACTORS = dict(
    signal=("SIGTERM", "SIGINT", "SIGHUP", "SIGUSR1", "SIGKILL"),
    target=("process", "group", "group of two", "one of two", "launcher of two"),
    workers=("0", "2", "2 that persist"),
    phase=pauses.PHASES,
    output=("file", "pipe", "pipe without reader"),
)
EPOCH, SAVE_EVERY = pauses.ITERATION, pauses.SAVED // 2
PATIENCE = 100  # seconds for a run of a few
CONFIG = """
import sys
sys.path.insert(0, {root!r})
default_scope = "mmpretrain"
custom_imports = dict(imports=["mmhcgnet", "campaigns.pauses"])
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(num_classes=4, mean=[128] * 3, std=[64] * 3),
    backbone=dict(
        type="mmhcgnet.HCGNet",
        arch=dict(depths=(1, 1), growth_rates=(8, 8), stem="cifar"),
        dropblock=dict(block_size=2),
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=4, in_channels={channels}),
    train_cfg=dict(augments=dict(type="Mixup", alpha=1.0)),
)
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="mmengine.PauseTransform", batch_size={batch}),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size={batch},
    num_workers={workers},
    persistent_workers={persistent},
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="CustomDataset", data_root={data!r}, pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=4,
    num_workers={workers},
    persistent_workers={persistent},
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset", data_root={data!r}, pipeline=[pipeline[0], pipeline[3]]
    ),
)
val_evaluator = dict(type="Accuracy")
val_cfg = dict()
train_cfg = dict(type="mmhcgnet.ResumableEpochLoop", max_epochs=2)
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9))
param_scheduler = dict(type="CosineAnnealingLR", T_max=12, by_epoch=False)
default_hooks = dict(
    checkpoint=dict(
        type="mmhcgnet.SafeCheckpointHook", by_epoch=False, interval={interval}, save_last=False
    ),
    interrupt=dict(type="mmhcgnet.InterruptHook"),
)
custom_hooks = [
    dict(type="EMAHook", momentum=0.5),
    dict(type="mmengine.PauseHook"),
]
randomness = dict(seed=0)
"""


class Case(NamedTuple):
    """One run."""

    signal: str
    target: str
    workers: str
    phase: str
    output: str

    @property
    def processes(self) -> int:
        return 2 if self.target.endswith("two") else 1


def all_cases() -> list[Case]:
    """The product of all factors."""
    return [Case(*values) for values in product(*FACTORS.values())]


def few_cases(strength: int = 2) -> list[Case]:
    """Few of them, with every combination of values of ``strength`` factors."""
    cases, chosen = all_cases(), []
    left = {part for case in cases for part in _parts(case, strength)}
    while left:
        best = max(cases, key=lambda case: len(left.intersection(_parts(case, strength))))
        chosen.append(best)
        left.difference_update(_parts(best, strength))
    return chosen


def _parts(case: Case, size: int) -> list[tuple]:
    return list(combinations(enumerate(case), size))


class Campaign:
    """Runs that get a signal.

    Args:
        warm: What starts them.
        folder: An empty folder for them.
    """

    def __init__(self, warm: Warm, folder: Path) -> None:
        self.warm, self.folder = warm, folder
        self._number = 0
        self._wanted: dict[int, Path] = {}
        noise = np.random.RandomState(0)
        for number in range(24):
            path = folder / "data" / "abcd"[number % 4] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(noise.randint(0, 255, (16, 16, 3), dtype=np.uint8)).save(path)

    def play(self, case: Case) -> list[str]:
        """Let one run get its signal.

        Returns:
            What is wrong; nothing is as it has to be.
        """
        if case.processes not in self._wanted:
            self._wanted[case.processes] = self._uninterrupted(case.processes)
        work_dir = self._new_folder()
        run, reader = self._start(work_dir, case, SAVE_EVERY)
        try:
            done = self._send(run, reader, work_dir, case)
            if isinstance(done, str):
                return [f"not tried: {done}: {reader.text()[-300:]}"]
            return list(self._faults(run, reader, work_dir, case, done))
        finally:
            run.kill(signal.SIGKILL, group=True) if session_members(run.pid) else None
            reader.close()

    def _uninterrupted(self, processes: int) -> Path:
        work_dir = self._new_folder()
        target = "process" if processes == 1 else "group of two"
        run, reader = self._start(work_dir, Case("", target, "0", "none", "file"), 1)
        result = run.wait(PATIENCE)
        reader.close()
        assert result.code == 0, result.err[-3000:]
        return work_dir

    def _new_folder(self) -> Path:
        self._number += 1
        work_dir = self.folder / str(self._number)
        (work_dir / "marks").mkdir(parents=True)
        return work_dir

    def _start(self, work_dir: Path, case: Case, interval: int) -> tuple[Run, Reader]:
        config = work_dir / "config.py"
        options = dict(
            root=str(ROOT),
            data=str(self.folder / "data"),
            channels=20,
            batch=4 // case.processes,
            workers=case.workers[0],
            persistent="persist" in case.workers,
            interval=interval,
        )
        text = CONFIG
        for key, value in options.items():
            text = text.replace(f"{{{key}!r}}", repr(value)).replace(f"{{{key}}}", str(value))
        config.write_text(text)
        command = [ROOT / "tools" / "train.py", config, "--work-dir", work_dir]
        if case.processes == 2:
            options = "--run-path --start-method=fork --nproc-per-node=2 --rdzv-backend=c10d"
            place = "--rdzv-endpoint=localhost:0"
            command = [torchrun.__file__, *options.split(), place, *command]
            command += ["--launcher", "pytorch"]
        fifo = "-"
        if case.output != "file":
            fifo = work_dir / "output"
            os.mkfifo(fifo)
        reader = Reader(fifo)
        env = {pauses.FOLDER: str(work_dir / "marks"), pauses.PHASE: case.phase}
        env |= dict(TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1", PYTHONPATH=str(ROOT))
        return self.warm.start(piped.__file__, fifo, *command, cwd=work_dir, env=env), reader

    def _send(self, run: Run, reader: Reader, work_dir: Path, case: Case) -> int | str:
        """Send the signal while the run stands still in its phase.

        Returns:
            How many iterations are done by then; or why it was not sent.
        """
        marks, end = work_dir / "marks", time.monotonic() + PATIENCE
        rests: tuple[float, list[str]] = (0.0, [])
        ranks = range(case.processes)
        while True:
            reader.read()
            if time.monotonic() > end or (result := run.poll()) is not None:
                return "too late" if time.monotonic() > end else f"it ended with {result}"
            arrived = len(list(marks.glob("arrived.*")))
            if case.phase == "load":
                # All wait for a batch that does not come.
                now = [_read(marks / f"rest.{rank}") for rank in ranks]
                if "" in now or now != rests[1]:
                    rests = time.monotonic(), now
                elif arrived >= case.processes and time.monotonic() > rests[0] + 0.3:
                    done = int(now[0])
                    break
            elif arrived >= (1 if case.phase == "save" else case.processes):
                done = pauses.SAVED if case.phase == "save" else pauses.ITERATION
                break
            time.sleep(0.01)
        if case.output == "pipe without reader":
            reader.close()
        number = signal.Signals[case.signal]
        if case.target == "one of two":
            os.kill(int(_read(marks / "pid.1")), number)
        else:
            run.kill(number, group=case.target.startswith("group"))
        if (marks / "left").exists():
            return "it went on before the signal"
        (marks / "sent").touch()
        return done

    def _faults(
        self, run: Run, reader: Reader, work_dir: Path, case: Case, done: int
    ) -> Iterator[str]:
        """Say what is not as it has to be, after ``done`` iterations."""
        end = time.monotonic() + PATIENCE
        while (code := run.poll()) is None or session_members(run.pid):
            reader.read()
            if time.monotonic() > end:
                yield f"processes are left: {session_members(run.pid)}, exit code {code}"
                return
            time.sleep(0.02)
        code, number = code.code, signal.Signals[case.signal]
        killed = number == signal.SIGKILL
        wanted = {-number} if killed else {128 + number}
        if case.processes == 1 and code not in wanted or code == 0:
            yield f"exit code {code}: {reader.text()[-300:]}"
        with suppress(UsageError):
            lock = lock_folder(str(work_dir))
            if lock is None:
                yield "the lock is not free"
            else:
                lock.close()
        for path in work_dir.glob("*.pth"):
            try:
                read_checkpoint(str(path))
            except UsageError as error:
                yield f"partial: {error}"
        found = find_newest([str(work_dir)], log=False)
        now = found.iteration if found else 0
        # Of what was killed by itself the last regular checkpoint is left.
        spared = case.target == "launcher of two"
        least = SAVE_EVERY if killed and not spared else done
        if not least <= now <= done + case.processes:
            yield f"lost: {done} iterations done, {now} saved"
        if now and (different := self._different(found.path, case.processes, now)):
            yield f"after {now} iterations another {different} than without a signal"

    def _different(self, path: str, processes: int, iteration: int) -> str:
        found, wanted = read_checkpoint(path), self._read_wanted(processes, iteration)
        parts = ("state_dict", "ema_state_dict", "optimizer", "param_schedulers")
        unequal = [part for part in parts if not _equal(found[part], wanted[part])]
        meta, places = found["meta"], [(wanted["meta"]["epoch"], _begin(wanted))]
        if iteration == EPOCH:  # its end is at once the beginning of the next one
            after = self._read_wanted(processes, EPOCH + 1)
            places = [(1, _begin(wanted)), (1, _begin(after))]
        if meta["iter"] != iteration or (meta["epoch"], _begin(found)) not in places:
            unequal.append("position")
        return ", ".join(unequal)

    def _read_wanted(self, processes: int, iteration: int) -> dict:
        return read_checkpoint(str(self._wanted[processes] / f"iter_{iteration}.pth"))


def _begin(checkpoint: dict) -> dict:
    """Where the epoch of a checkpoint began."""
    return checkpoint["message_hub"]["runtime_info"]["epoch_begin"]


class Reader:
    """What reads a run's output.

    Args:
        fifo: A named pipe; ``"-"`` for none.
    """

    def __init__(self, fifo: Path | str) -> None:
        self._read = b""
        self._descriptor = None
        if fifo != "-":
            self._descriptor = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def read(self) -> None:
        """Read what there is."""
        while self._descriptor is not None:
            try:
                if not (new := os.read(self._descriptor, 1 << 16)):
                    return
            except OSError as error:
                if error.errno != errno.EAGAIN:
                    raise
                return
            self._read += new

    def text(self) -> str:
        """All that was read."""
        return self._read.decode(errors="replace")

    def close(self) -> None:
        """Go away."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _equal(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return isinstance(right, torch.Tensor) and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_equal(left[key], right[key]) for key in left)
    if isinstance(left, list | tuple):
        return len(left) == len(right) and all(map(_equal, left, right))
    return left == right


def run(warm: Warm, cases: list[Case]) -> tuple[str, bool]:
    """Try some cases.

    Args:
        warm: What starts their runs.
        cases: Which.

    Returns:
        A table of the results by signal and target, with the faults below; and whether it is all as
        it has to be.
    """
    faults, tried, good = [], Counter(), Counter()
    with tempfile.TemporaryDirectory() as folder:
        campaign = Campaign(warm, Path(folder))
        for number, case in enumerate(cases, 1):
            found = campaign.play(case)
            key = case.target, case.signal
            tried[key] += 1
            good[key] += not found
            faults += [f"{' | '.join(case)}: {fault}" for fault in found]
            print(f"{number} of {len(cases)}: {' | '.join(case)}", *found, file=sys.stderr)
    lines = ["| to | " + " | ".join(FACTORS["signal"]) + " |", "|---" * 6 + "|"]
    for target in FACTORS["target"]:
        cells = (f"{good[target, name]} of {tried[target, name]}" for name in FACTORS["signal"])
        lines.append(f"| {target} | " + " | ".join(cells) + " |")
    lines.append(f"signals: {len(cases)} runs, {len(faults)} faults")
    return "\n".join(lines + faults), not faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument(
        "--strength",
        type=int,
        choices=range(2, len(FACTORS) + 1),
        default=2,
        help="try every combination of values of so many factors",
    )
    parser.add_argument("--skip", type=int, default=0, help="leave out the first so many")
    parser.add_argument("--count", type=int, help="only so many")
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with Warm() as warm:
        table, good = run(warm, few_cases(args.strength)[args.skip :][: args.count])
    print(table)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
