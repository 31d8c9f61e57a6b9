"""What docs/trackers.md says of TensorBoard; the other two trackers are heavy to install."""

import json

import pytest
from test_safe_checkpoint_hook import BATCHES, run

from mmhcgnet import LogGuardHook
from mmhcgnet.engine.runner.loops import ResumableEpochLoop

VISUALIZER = dict(
    type="Visualizer",
    vis_backends=[dict(type="LocalVisBackend"), dict(type="TensorboardVisBackend")],
)


def train(folder, epochs, **kwargs):
    run(
        folder,
        LogGuardHook(),
        loop=dict(type=ResumableEpochLoop, max_epochs=epochs),
        settings=dict(logger=dict(type="LoggerHook", interval=1)),
        launched=dict(visualizer=VISUALIZER),
        **kwargs,
    )


def test_a_run_and_the_one_that_resumes_it_join_in_tensorboard(tmp_path, capfd):
    pytest.importorskip("tensorboard", reason="TensorBoard is an option")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path, 2)
    train(tmp_path, 4, resume=str(tmp_path / "epoch_2.pth"))
    curves = []
    for file in sorted(tmp_path.glob("*/vis_data/events.out.tfevents.*")):
        events = EventAccumulator(str(file)).Reload()
        curves.append([(event.step, event.value) for event in events.Scalars("loss")])
    assert len(curves) == 2
    # Runs that start within a second share a folder.
    logs = sorted(tmp_path.glob("*/vis_data/scalars.json"))
    lines = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    joined = [point for curve in curves for point in curve]
    assert [step for step, _ in joined] == list(range(1, 4 * BATCHES + 1))
    assert [loss for _, loss in joined] == pytest.approx([line["loss"] for line in lines])
    assert "warning" not in capfd.readouterr().err
