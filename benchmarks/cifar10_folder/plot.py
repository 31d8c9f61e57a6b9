"""Draw the errors on the held-out images against epochs and against computing time.

A run's computing time is its steps times the fastest mean step of its log, so that what else ran on
the machine does not count.
Usage: python benchmarks/cifar10_folder/plot.py OUT.png WORK_DIR [WORK_DIR …]
"""

import json
import sys
from pathlib import Path

import matplotlib.pyplot as plt

STEPS_AN_EPOCH = 45000 // 128

out, *work_dirs = sys.argv[1:]
figure, axes = plt.subplots(1, 2, figsize=(9, 3.5), sharey=True, layout="constrained")
for work_dir in map(Path, work_dirs):
    lines = [
        json.loads(line)
        for path in sorted(work_dir.glob("*/vis_data/scalars.json"))
        for line in path.read_text().splitlines()
    ]
    seconds = min(line["time"] for line in lines if "loss" in line)
    steps, errors, step = [], [], 0
    for line in lines:
        if "loss" in line:
            step = line["step"]
        elif "accuracy/top1" in line:  # which has no step of its own
            steps.append(step)
            errors.append(100 - line["accuracy/top1"])
    print(
        f"{work_dir.name}: {steps[-1]} steps of {seconds:.2f} s, error last {errors[-1]:.2f} %, "
        f"best {min(errors):.2f} %"
    )
    axes[0].plot([s / STEPS_AN_EPOCH for s in steps], errors, marker=".", label=work_dir.name)
    axes[1].plot([s * seconds / 60 for s in steps], errors, marker=".", label=work_dir.name)
axes[0].set(xlabel="epoch", ylabel="error on the held-out images (%)", ylim=(0, None))
axes[1].set(xlabel="minutes of training on one core")
axes[1].legend()
figure.savefig(out, dpi=110)
