"""Draw the errors on the held-out images against epochs and against computing time.

A run's computing time is its steps times the median step of its log, without the validation.
Usage: python benchmarks/cifar10_peers/plot.py OUT.png WORK_DIR [WORK_DIR …]
"""

import json
import sys
from pathlib import Path
from statistics import median

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
    seconds = median(line["time"] for line in lines if "loss" in line)
    errors, step = {}, 0
    for line in lines:
        if "loss" in line:
            step = line["step"]
        elif "accuracy/top1" in line:  # which has no step of its own
            errors[step] = 100 - line["accuracy/top1"]
    print(
        f"{work_dir.name}: {step} steps of {seconds:.2f} s, {step * seconds / 60:.0f} minutes, "
        f"error last {[*errors.values()][-1]:.2f} %, best {min(errors.values()):.2f} %"
    )
    for ax, unit in zip(axes, (1 / STEPS_AN_EPOCH, seconds / 60), strict=True):
        ax.plot([s * unit for s in errors], errors.values(), marker=".", label=work_dir.name)
axes[0].set(xlabel="epoch", ylabel="error on the held-out images (%)", ylim=(0, None))
axes[0].set_xscale("log")
axes[1].set(xlabel="minutes of training on one core")
axes[1].legend()
figure.savefig(out, dpi=110)
