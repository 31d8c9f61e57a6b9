"""The program that compares the two initialisations, on a tiny network and random images."""

import json
import runpy
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

PROGRAM = Path(__file__).parents[1] / "benchmarks/weight_init.py"


@pytest.fixture
def compare(tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data/train" / name).mkdir(parents=True)
        for i in range(8):
            image = rng.integers(0, 128, (32, 32, 3), dtype=np.uint8) + 127 * label
            cv2.imwrite(str(tmp_path / f"data/train/{name}/{i}.png"), image)
    config = tmp_path / "tiny.py"
    config.write_text(
        f'_base_ = "{PROGRAM.parents[1]}/configs/hcgnet/'
        'hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar10.py"\n'
        "model = dict(backbone=dict(arch=dict("
        "_delete_=True, depths=(1, 1), growth_rates=(8, 8), stem='cifar')),"
        " head=dict(in_channels=20))\n"
    )
    program = runpy.run_path(str(PROGRAM))
    values = program["main"].__globals__
    for name, value in dict(CONFIG=str(config), BATCH=4, HELD_OUT=6).items():
        monkeypatch.setitem(values, name, value)

    def run(*options):
        command = ["weight_init.py", tmp_path / "data", tmp_path / "out", "--steps", 3, *options]
        monkeypatch.setattr(sys, "argv", list(map(str, command)))
        program["main"]()
        return {path.name: json.loads(path.read_text()) for path in (tmp_path / "out").iterdir()}

    return run


def test_two_runs_for_each_seed_that_differ_and_are_not_repeated(compare, capsys):
    runs = compare("--seeds", 0, 1)
    assert set(runs) == {f"{w}_seed{s}_3steps.json" for w in ("neutral", "pytorch") for s in (0, 1)}
    assert all(len(result["losses"]) == 3 for result in runs.values())
    assert all(0 <= result["accuracy"] <= 100 for result in runs.values())
    assert len({tuple(result["losses"]) for result in runs.values()}) == 4
    capsys.readouterr()
    assert compare("--seeds", 0, 1) == runs
    assert len(capsys.readouterr().out.splitlines()) == 4
