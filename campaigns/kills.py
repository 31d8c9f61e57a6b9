"""Kills trainings with SIGKILL at random moments, half of them in saves, and resumes them.

python -m campaigns.kills --count 200
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from helpers.scripts import Result
from helpers.warm import Run, Warm
from PIL import Image

from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.checkpoints.newest import find_newest
from mmhcgnet.errors import UsageError

TRAIN = Path(__file__).parents[1] / "tools" / "train.py"
EPOCHS = 5
SETTINGS = {
    "keep 1": dict(max_keep_ckpts=1),
    "keep 3": dict(max_keep_ckpts=3),
    "keep 1 and the best": dict(max_keep_ckpts=1, save_best="auto", rule="greater"),
    "every 3 iterations": dict(
        max_keep_ckpts=2, by_epoch=False, interval=3, save_best="auto", rule="greater"
    ),
}
KILLS_A_RUN = 4  # then it may come to its end
PATIENCE = 120  # seconds for a run of a few

# The head is that wide for the sake of the file's size: it takes a while to write.
CONFIG = """
default_scope = "mmpretrain"
custom_imports = dict(imports=["mmhcgnet"])
model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(num_classes=4, mean=[128] * 3, std=[64] * 3),
    backbone=dict(
        type="mmhcgnet.HCGNet",
        arch=dict(depths=(2, 1, 2), growth_rates=(4, 8, 12), stem="cifar"),
        dropblock=dict(block_size=2),
    ),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(
        type="StackedLinearClsHead", num_classes=4, in_channels=32, mid_channels=[20000]
    ),
    train_cfg=dict(augments=dict(type="Mixup", alpha=1.0)),
)
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackInputs"),
]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="CustomDataset", data_root="{data}", pipeline=pipeline),
)
val_dataloader = dict(
    batch_size=8,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CustomDataset", data_root="{data}", pipeline=[pipeline[0], pipeline[2]]),
)
val_evaluator = dict(type="SingleLabelMetric", items=("f1-score",))
val_cfg = dict()
train_cfg = dict(type="mmhcgnet.ResumableEpochLoop", max_epochs={epochs})
optim_wrapper = dict(optimizer=dict(type="SGD", lr=0.01, momentum=0.9, nesterov=True))
param_scheduler = dict(type="CosineAnnealingLR", T_max={epochs}, convert_to_iter_based=True)
default_hooks = dict(
    checkpoint=dict(type="mmhcgnet.SafeCheckpointHook", **dict(dict(interval=1), **{options})),
    interrupt=dict(type="mmhcgnet.InterruptHook"),
)
custom_hooks = [dict(type="EMAHook", momentum=0.5, update_buffers=True)]
randomness = dict(seed=0)
"""


def write_setting(folder: Path, options: dict) -> Path:
    """Write 16 pictures of four classes and the config of a run that takes seconds.

    The classes differ by their brightness, so that validations get better.
    """
    noise = np.random.RandomState(0)
    for number in range(16):
        path = folder / "data" / "abcd"[number % 4] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = noise.randint(0, 64, (16, 16, 3)) + 64 * (number % 4)
        Image.fromarray(picture.astype(np.uint8)).save(path)
    config = folder / "config.py"
    config.write_text(
        CONFIG.replace("{data}", str(folder / "data"))
        .replace("{epochs}", str(EPOCHS))
        .replace("{options}", repr(options))
    )
    return config


class Campaign:
    """Runs of one setting, which are killed and resumed.

    Args:
        warm: What starts them.
        folder: An empty folder for them.
        options: The arguments of the hook that saves.
        rng: Decides when they are killed.
    """

    def __init__(self, warm: Warm, folder: Path, options: dict, rng: random.Random) -> None:
        self.warm, self.folder, self.rng = warm, folder, rng
        self.config = write_setting(folder, options)
        self.keep = options["max_keep_ckpts"]
        self.faults: list[str] = []
        self.kills: Counter = Counter()
        self.halves = 0  # kills that left a file half written, under its temporary name
        self.resumed = 0
        self._number = 0
        start = time.monotonic()
        result = self._start(folder / "whole").wait(PATIENCE)
        assert result.code == 0, result.err[-3000:]
        self.seconds = time.monotonic() - start
        self.wanted = self._last(folder / "whole")

    def play(self, most: int) -> None:
        """Kill one run up to ``most`` times, then let it come to its end."""
        self._number += 1
        work_dir, before = self.folder / str(self._number), None
        for _ in range(most):
            inside = self.kills["in a save"] < self.kills["anywhere"]
            run = self._start(work_dir)
            killed = self._in_a_save(run, work_dir) if inside else self._anywhere(run)
            if not killed:
                break
            self.kills["in a save" if inside else "anywhere"] += 1
            before = self._check(work_dir, before)
        self._finish(work_dir, self._start(work_dir).wait(PATIENCE))

    def _start(self, work_dir: Path) -> Run:
        arguments = [self.config, "--work-dir", work_dir, "--resume"]
        return self.warm.start(TRAIN, *arguments, cwd=self.folder)

    def _anywhere(self, run: Run) -> bool:
        # The first third is imports and building.
        end = time.monotonic() + self.rng.uniform(self.seconds / 3, self.seconds)
        return self._kill_when(run, lambda: time.monotonic() >= end)

    def _in_a_save(self, run: Run, work_dir: Path) -> bool:
        """Kill it when it writes its first to fourth file, or somewhat later."""
        passed = self.rng.randrange(4)
        # Some die with the first bytes, some when the file has its name and older ones do not go.
        then = self.rng.choice([0, 0, 0.002, 0.005, 0.01, 0.02])
        was_writing = True  # what the run before has left

        def in_a_save() -> bool:
            nonlocal passed, was_writing
            writing = any(work_dir.glob(".*.pth.*.tmp"))
            began, was_writing = writing and not was_writing, writing
            if not began:
                return False
            passed -= 1
            if passed < 0:
                time.sleep(then)
            return passed < 0

        killed = self._kill_when(run, in_a_save)
        self.halves += any(work_dir.glob(".*.pth.*.tmp"))
        return killed

    def _kill_when(self, run: Run, ready: Callable[[], bool]) -> bool:
        """Whether the run was killed before its end."""
        while run.poll() is None:
            if ready():
                run.kill(signal.SIGKILL, group=True)
                return run.wait(PATIENCE).code == -signal.SIGKILL
            time.sleep(0.0005)
        return False

    def _check(self, work_dir: Path, before: int | None) -> int | None:
        """What a kill must leave: whole files, and none lost.

        Args:
            work_dir: The run's folder.
            before: The iteration that it could resume from after the kill before.

        Returns:
            The one that it can resume from now.
        """
        names = sorted(path.name for path in work_dir.glob("*.pth"))
        for name in names:
            try:
                read_checkpoint(str(work_dir / name))
            except UsageError as error:
                self._fault(work_dir, f"partial: {error}")
        regular = [name for name in names if not name.startswith("best")]
        if len(regular) > self.keep + 1:
            self._fault(work_dir, f"more than {self.keep} and one are left: {regular}")
        try:
            found = find_newest([str(work_dir)], log=False)
        except UsageError as error:
            self._fault(work_dir, f"lost: {error}")
            return None
        now = found.iteration if found else None
        if before is not None and (now is None or now < before):
            self._fault(work_dir, f"lost: iteration {before}, and now {now}")
        return now

    def _finish(self, work_dir: Path, result: Result) -> None:
        """What a run that was killed and resumed must end with."""
        if result.code != 0:
            self._fault(work_dir, f"exit code {result.code}: {result.err[-500:]}")
            return
        self.resumed += 1
        self._check(work_dir, None)
        if left := list(work_dir.glob(".*.tmp")):
            self._fault(work_dir, f"temporary files are left: {left}")
        names = {path.name for path in work_dir.glob("*.pth")}
        regular = {name for name in names if not name.startswith("best")}
        whole = {path.name for path in (self.folder / "whole").glob("*.pth")}
        if regular != {name for name in whole if not name.startswith("best")}:
            self._fault(work_dir, f"other files than without kills: {sorted(names)}")
        last = self._last(work_dir)
        for key in ("state_dict", "ema_state_dict"):
            if any(not torch.equal(last[key][n], w) for n, w in self.wanted[key].items()):
                self._fault(work_dir, f"the {key} is another than without kills")

    def _last(self, work_dir: Path) -> dict:
        return read_checkpoint((work_dir / "last_checkpoint").read_text())

    def _fault(self, work_dir: Path, what: str) -> None:
        self.faults.append(f"{work_dir}: {what}")
        print(self.faults[-1], file=sys.stderr)


def run(
    warm: Warm, count: int, seed: int = 0, settings: dict[str, dict] = SETTINGS
) -> tuple[str, bool]:
    """Kill runs.

    Args:
        warm: What starts them.
        count: How many kills, over all settings.
        seed: Of the random moments.
        settings: Arguments of the hook that saves, by a name.

    Returns:
        The result in one line, and whether it is as it has to be.
    """
    rng, kills, faults, resumed, halves = random.Random(seed), Counter(), [], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, options) in enumerate(settings.items(), 1):
            place = Path(folder, str(number))
            place.mkdir()
            campaign = Campaign(warm, place, options, rng)
            share = count * number // len(settings) - kills.total()
            while (left := share - campaign.kills.total()) > 0:
                campaign.play(min(left, KILLS_A_RUN))
                done = kills.total() + campaign.kills.total()
                print(f"{done} of {count} kills, now {name}", file=sys.stderr)
            kills += campaign.kills
            resumed += campaign.resumed
            halves += campaign.halves
            faults += campaign.faults
    moments = ", ".join(f"{number} {moment}" for moment, number in sorted(kills.items()))
    return (
        f"kills: {kills.total()} ({moments}; {halves} left a temporary file) with "
        f"{', '.join(settings)}: {len(faults)} faults (files that are partial, checkpoints lost, "
        f"weights that differ); {resumed} runs resumed to their end",
        not faults,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=200, help="kills (default: 200)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with Warm() as warm:
        line, good = run(warm, args.count, args.seed)
    print(line)
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
