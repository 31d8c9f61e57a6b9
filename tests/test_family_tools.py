"""MMPretrain's own tools on our configs, those of them that once failed."""

import math
from pathlib import Path

import matplotlib
import pytest

from mmhcgnet.datasets import shapes

mmpretrain = pytest.importorskip("mmpretrain")
TOOLS = Path(mmpretrain.__file__).parent / ".mim/tools/visualization"
CONFIG = Path(__file__).parents[1] / "configs/hcgnet/hcgnet-b_1xb32-cosine-4e_shapes.py"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matplotlib, "rcParams", matplotlib.rcParams.copy())
    matplotlib.use("Agg")


def test_vis_scheduler_draws_the_rate_of_every_iteration(start):
    """Its dataloader is a list."""
    from matplotlib import pyplot as plt

    options = ("--dataset-size", 320, "--not-show", "--save-path", "rates.png")
    start(TOOLS / "vis_scheduler.py", CONFIG, *options, code=0)
    rates = plt.gca().lines[0].get_ydata()
    plt.close("all")
    assert len(rates) == 4 * 320 / 32 and Path("rates.png").is_file()
    assert rates[0] == pytest.approx(0.001 * 0.1)  # the warm-up, of 30 iterations
    assert rates[35] == pytest.approx(0.001 * (1 + math.cos(math.pi * 35 / 40)) / 2, rel=1e-2)


def test_browse_dataset_draws_the_images(start):
    """It hands the config's visualizer to the constructor."""
    shapes.write_classification("data/shapes/classification", images=10, val_images=5, size=64)
    options = ("--not-show", "--output-dir", "out", "--show-number", 2, "--mode", "original")
    start(TOOLS / "browse_dataset.py", CONFIG, *options, code=0)
    assert len(list(Path("out").iterdir())) == 2
