"""The tools that count and draw, run in this process, as their imports take seconds."""

import itertools
import json
import re
import runpy
import sys
from pathlib import Path

import pytest

from mmhcgnet.analysis import paper

ROOT = Path(__file__).parents[2]
TOOLS = ROOT / "tools/analysis_tools"
CIFAR = "configs/hcgnet/hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar10.py"
NETWORK = """
model = dict(
    type="mmhcgnet.HCGNet",
    arch=dict(depths=(1, 1), growth_rates=(8, 8), stem="cifar"),
    out_indices=(0, 1),
)
"""


@pytest.fixture
def run(start):
    return lambda name, *args: start(TOOLS / name, *args, code=0).out


def cells(text, first):
    """The cells of the only row of the printed tables that begins with ``first``."""
    rows = [line for line in text.splitlines() if line.startswith(f"| {first} ")]
    assert len(rows) == 1, text
    return [cell.strip() for cell in rows[0].strip("|").split("|")]


def test_a_classifier_at_its_own_size(run, tmp_path):
    out = run("get_flops.py", ROOT / CIFAR, "--json", tmp_path / "new/a1.json")
    assert "3 x 32 x 32" in out
    assert cells(out, "total") == ["total", "1.065", "0.1542", "0.0006"]
    assert cells(out, "head") == ["head", "0.004", "0.0000", "0.0000"]
    result = json.loads((tmp_path / "new/a1.json").read_text())
    assert (result["params"], result["multiply_adds"]) == (1_065_301, 154_231_776)
    assert result["parts"]["head"] == dict(params=4150, multiply_adds=4140, products=0)


def test_size_check_and_options(run, tmp_path):
    config = tmp_path / "network.py"
    config.write_text(NETWORK)
    wide = run("get_flops.py", config, "--shape", 16, 40, "--check")
    assert "3 x 16 x 40" in wide and " 0.00% apart" in wide
    square = run("get_flops.py", config, "--shape", 16)
    assert "3 x 16 x 16" in square and "apart" not in square
    option = "model.arch.growth_rates=[8,16]"
    more = run("get_flops.py", config, "--shape", 16, "--cfg-options", option)
    assert float(cells(more, "total")[1]) > float(cells(square, "total")[1])


def test_a_config_of_another_package(run):
    out = run("get_flops.py", "mmpretrain::resnet/resnet18_8xb32_in1k.py", "--shape", 64)
    assert cells(out, "total")[1] == "11.690"


@pytest.mark.parametrize(
    "args, sentence",
    [
        ([], "either a config or --paper"),
        ([CIFAR, "--paper"], "either a config or --paper"),
        ([CIFAR, "--shape", "1", "2", "3"], "A shape is a height and a width"),
        (["nowhere::a.py"], "needs the package nowhere, which is not installed"),
        (["mmpretrain::resnet/resnet18.py"], "does not exist"),
        (["configs/_base_/datasets/shapes_instance.py"], "has no model"),
    ],
)
def test_mistakes_get_one_sentence(start, monkeypatch, args, sentence):
    monkeypatch.chdir(ROOT)
    (line,) = start(TOOLS / "get_flops.py", *args, code=2).err.splitlines()
    assert line.startswith("error: ") and sentence in line


@pytest.mark.slow(reason="counts eight networks at their real size")
def test_the_papers_tables_have_both_columns(run, monkeypatch, tmp_path):
    """With a few rows of each table, as all of them take most of a minute."""

    def keep(table, *names):
        kept = tuple(entry for entry in getattr(paper, table) if entry.name in names)
        assert len(kept) == len(names)
        monkeypatch.setattr(paper, table, kept)

    keep("CIFAR", "WRN-28", "HCGNet-A1")
    keep("IMAGENET", "ResNet-50", "DenseNet-264", "WideResNet-18", "AOGNet-12M")
    out = run("get_flops.py", "--paper", "--json", tmp_path / "paper.json")
    assert cells(out, "WRN-28") == ["WRN-28", "36.5", "–", "5.2", "–", "4.17", "20.50"]
    a1 = ["HCGNet-A1", "1.1", "1.065 / 1.103", "0.2", "0.154", "3.15", "18.13"]
    assert cells(out, "HCGNet-A1") == a1
    assert cells(out, "ResNet-50")[1:] == ["25.6", "25.56", "3.9", "4.09", "24.6", "7.5"]
    # Networks of which there is no config have the parameters of the paper all the same.
    for name in ("DenseNet-264", "WideResNet-18"):
        _, theirs, counted, *_ = cells(out, name)
        assert float(counted) == pytest.approx(float(theirs), abs=0.1)
    assert cells(out, "HCGNet-B-FPN")[1:5] == ["32.1", "32.20", "230.4", "214.3"]
    apart = re.search(r"(0\.\d+) of the FLOPs\*, (0\.\d+) of the multiply-adds, (\S+)% apart", out)
    assert apart.groups() == ("0.836", "0.826", "1.2")
    tables = json.loads((tmp_path / "paper.json").read_text())
    assert [len(rows) for rows in tables.values()] == [2, 4, 3]
    assert tables["table 2"][1]["computed"]["100"]["params"] == 1_102_651


# --- pictures ----------------------------------------------------------------------------------


def test_pictures_of_all_entries_with_names_that_can_be_read(monkeypatch, capsys, tmp_path):
    pytest.importorskip("matplotlib")
    plots = runpy.run_path(str(TOOLS / "plot_tables.py"))
    assert ("HCGNet-A3", 11.4, 15.96, True) in plots["points"]("CIFAR", "cifar100", "params")
    assert ("MixNet-190", 17.3, 3.13, False) in plots["points"]("CIFAR", "cifar10", "flops")
    assert ("HCGNet-B", 2.0, 21.5, True) in plots["points"]("IMAGENET", "top1", "flops")

    figures = plots["figures"]()
    files = ["error_cifar", "error_cifar_flops", "error_imagenet"]
    panels = [ax for name in files for ax in figures[name].axes]
    # Of 21 networks, four have no error on CIFAR-10 and one has none on CIFAR-100; nine have FLOPs.
    sizes = [len(paper.CIFAR) - 4, len(paper.CIFAR) - 1, 9, 9]
    assert [len(ax.texts) for ax in panels] == [*sizes, len(paper.IMAGENET), len(paper.IMAGENET)]
    for ax in panels:
        boxes = [text.get_window_extent() for text in ax.texts]
        assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
        for text in ax.texts:
            assert not any(box.contains(*ax.transData.transform(text.xy)) for box in boxes)
        panel = ax.get_window_extent().padded(1)
        assert all(panel.x0 <= box.x0 and box.x1 <= panel.x1 for box in boxes)

    monkeypatch.setitem(plots["main"].__globals__, "figures", lambda: figures)
    monkeypatch.setattr(sys, "argv", ["plot_tables.py", "--out", str(tmp_path / "new")])
    plots["main"]()
    printed = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.stem for path in printed] == files
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in printed)


def test_without_matplotlib_it_says_so(start, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = start(TOOLS / "plot_tables.py", "--out", tmp_path)
    assert result.code and "pip install matplotlib" in result.err
