"""The notebook runs from top to bottom."""

import json
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[2] / "demo/tutorial.ipynb"


@pytest.mark.slow(reason="trains and exports as the notebook does")
def test_all_cells_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    names: dict = {}
    for i, code in enumerate(codes):
        exec(compile(code, f"cell {i}", "exec"), names)
    told = capsys.readouterr().out
    for shape in ("ellipse", "rectangle", "star", "triangle"):
        assert f"{shape} " in told
    assert "plain deployed" in told and "model.neck.in_channels" in told
    assert names["difference"] < 0.01


def test_it_ships_with_its_results():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    codes = [cell for cell in cells if cell["cell_type"] == "code"]
    assert all(cell["outputs"] and cell["execution_count"] for cell in codes)
    assert not any(output["output_type"] == "error" for c in codes for output in c["outputs"])
