"""The classifier of the shapes trains and tests through the scripts, as a user starts them."""

import json
from pathlib import Path

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "configs/hcgnet/hcgnet-b_1xb32-cosine-4e_shapes.py"


def test_the_shapes_classifier_trains_and_tests(warm, tmp_path):
    def run(*command, cwd):
        result = warm.run(*command, cwd=cwd)
        assert result.code == 0, result.out[-3000:] + result.err[-3000:]
        return result.out + result.err

    script = ROOT / "tools/dataset_converters/make_shapes.py"
    run(script, "--classification", "--images", 17, "--val-images", 7, "--size", 64, cwd=tmp_path)
    few = ["train_dataloader.batch_size=8", "train_cfg.max_epochs=1"]
    train = run(
        ROOT / "tools/train.py", CONFIG, "--work-dir", "run",
        "--cfg-options", *few, "default_hooks.logger.interval=1", cwd=tmp_path,
    )  # fmt: skip
    # The last picture is left out, as it would be a batch of one.
    assert "Epoch(train) [1][2/2]" in train and "Epoch(val) [1][1/1]" in train
    assert train.partition("Epoch(train)")[0].count("\n") < 40
    run(
        ROOT / "tools/test.py", CONFIG, "run/epoch_1.pth", "--work-dir", "run/test",
        "--out", "metrics.json", cwd=tmp_path,
    )  # fmt: skip
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    hits = metrics["accuracy/top1"] * 7 / 100
    assert abs(hits - round(hits)) < 1e-3
