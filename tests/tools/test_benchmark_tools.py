"""The tools that measure, run in this process on networks that take milliseconds."""

import dataclasses
import functools
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch

from mmhcgnet.analysis.benchmark.measuring import Result

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "benchmarks/run.py"
SMALL = "mmhcgnet.HCGNet:arch.depths=(1,1):arch.growth_rates=(8,8):arch.stem=cifar"


@pytest.fixture
def run(start):
    threads = torch.get_num_threads()
    yield functools.partial(start, "analysis_tools/benchmark.py")
    torch.set_num_threads(threads)


def test_two_forms_side_by_side(run, tmp_path):
    pytest.importorskip("matplotlib")
    names = [SMALL, f"{SMALL}:with_cp"]
    result = run(
        *(*names, "--tasks", "forward", "train", "--batch-sizes", 2, 3, "--shape", 16, 24),
        *("--rounds", 4, "--seconds", 0, "--threads", 1, "--no-channels-last"),
        *("--json", tmp_path / "new/a.json", "--plot", tmp_path / "new/a.png"),
    )
    assert result.code == 0, result.err
    out = result.out
    assert "train, batch 3, round 3 of 4" in out and "round 4 of 4" not in out
    assert out.count("| model ") == 4 and "train, 3 images of 16 x 24" in out
    written = json.loads((tmp_path / "new/a.json").read_text())
    assert written["machine"]["threads"] == 1
    assert written["machine"]["versions"]["torch"] == torch.__version__
    found = [(r["model"], r["task"], r["batch_size"], r["size"]) for r in written["results"]]
    assert found == [
        (name, task, n, [16, 24]) for task in ("forward", "train") for n in (2, 3) for name in names
    ]
    *_, default, with_cp = written["results"]
    assert default["ratio"] == 1 and len(default["times"]) == 3
    assert default["kept"] > with_cp["kept"] and default["calls"] < with_cp["calls"]
    assert f"{default['kept'] / 1e6:.1f}" in out.splitlines()[-3]
    assert (tmp_path / "new/a.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "args, sentence",
    [
        (["resnet50"], "There is no model 'resnet50'"),
        ([SMALL, "--device", "cuda"], "no CUDA device"),
        ([SMALL, "--shape", "1", "2", "3"], "A shape is a height and a width"),
        ([SMALL, "--plot", "a.gif"], "--plot draws a .png, .pdf or .svg"),
        ([SMALL, "--rounds", "0"], "argument --rounds: must be above 0"),
    ],
)
def test_mistakes_get_one_sentence(run, monkeypatch, args, sentence):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert sentence in run(*args, code=2).err.splitlines()[-1]


# --- make bench ----------------------------------------------------------------------------------


def line_of(text, what):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| {what} "))
    return line


@pytest.fixture
def bench():
    return runpy.run_path(str(BENCH))


@pytest.mark.slow(reason="does the work of every comparison once")
def test_every_target_is_measured_in_one_run(bench, monkeypatch, capsys, tmp_path):
    """With small networks in place of all but the names, which the targets go by."""
    pytest.importorskip("matplotlib")
    small = {
        name: dataclasses.replace(
            comparison,
            batch_size=2,
            size=(16, 16),
            rounds=1,
            models={
                role: f"{SMALL}:out_indices={(0, 1)[: 1 + i % 2]}:in_channels={3 + i}"
                for i, role in enumerate(comparison.models)
            },
        )
        for name, comparison in bench["COMPARISONS"].items()
        if name != "growth"
    }
    small["growth"] = bench["COMPARISONS"]["growth"]
    monkeypatch.setitem(bench["main"].__globals__, "COMPARISONS", small)
    out = tmp_path / "new/bench.json"
    monkeypatch.setattr(sys, "argv", ["run.py", "--out", str(out)])
    bench["main"]()
    printed = capsys.readouterr().out
    written = json.loads(out.read_text())
    assert [row["what"] for row in written["targets"]] == [t.what for t in bench["targets"]()]
    for row in written["targets"]:
        assert row["value"] > 0 and f" {row['measured']} |" in line_of(printed, row["what"])
    for comparison in small.values():
        for name in comparison.models.values():
            assert f"\n| {name} " in printed
    rows = {row["what"]: row for row in written["targets"]}
    linear = rows["kept when the depth doubles twice: 2 linear, 4 quadratic"]
    assert linear["met"] == "yes" and 1.9 < linear["value"] < 2.2
    assert {name: list(found) for name, found in written["results"].items()} == {
        name: list(comparison.models) for name, comparison in small.items()
    }
    assert out.with_suffix(".png").read_bytes().startswith(b"\x89PNG")


def test_targets_are_judged(bench):
    slow, fast = (
        Result("m", "forward", 1, (8, 8), [seconds], 1.0, calls=850) for seconds in (1.8, 1.0)
    )

    def judge(deployed, resnet):
        results = {"forward-8": dict(deployed=deployed, resnet=resnet, plain=resnet)}
        return [bench["judge"](target, results) for target in bench["targets"]()]

    against_resnet, not_run, _, _, calls, *_ = judge(fast, slow)
    assert against_resnet["target"] == "≥ 2.00×" and against_resnet["measured"] == "1.80×"
    assert against_resnet["met"] == "the floor"
    assert judge(slow, fast)[0]["met"] == "no"
    assert judge(fast, dataclasses.replace(slow, times=[2.0]))[0]["met"] == "yes"
    assert (calls["target"], calls["measured"], calls["met"]) == ("≤ 850", "850", "yes")
    assert (not_run["target"], not_run["measured"], not_run["met"]) == ("≥ 1.50×", "–", "–")


def test_the_networks_of_all_comparisons_can_be_built(bench):
    from mmhcgnet.analysis.benchmark.workloads import build

    names = {name for c in bench["COMPARISONS"].values() for name in c.models.values()}
    small = {name for name in names if name.startswith("mmhcgnet.HCGNet")}
    assert len(small) == len(bench["DEPTHS"]) + 4
    for name in small:
        assert build(name).arch.stem == "cifar"
    assert {bench["OURS"], bench["RESNET_FPN"], "torchvision:resnet50", "hcgnet-b"} <= names
    assert (ROOT / bench["OURS"]).is_file()
