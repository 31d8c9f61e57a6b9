"""What a run shows on a terminal, and what it leaves to the log file."""

import io
import sys

import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel

from mmhcgnet.cli.progress import progress_bar
from mmhcgnet.engine.runner.quiet_runner import QuietRunner


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def forward(self, inputs, mode="tensor"):
        outputs = self.layer(torch.stack(inputs))
        return dict(loss=outputs.square().mean()) if mode == "loss" else list(outputs)


class Nothing(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(0)

    def compute_metrics(self, results):
        return dict(found=len(results))


def build(folder):
    numbers = [dict(inputs=torch.tensor([float(i)])) for i in range(6)]
    loader = dict(dataset=numbers, batch_size=2, num_workers=0)
    loader["sampler"] = dict(type="DefaultSampler", shuffle=False)
    return QuietRunner(
        model=Model(),
        work_dir=str(folder),
        train_dataloader=loader,
        val_dataloader=loader,
        val_cfg=dict(),
        val_evaluator=Evaluator(Nothing()),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.01)),
        default_hooks=dict(logger=dict(type="LoggerHook", interval=1)),
        experiment_name=folder.name,
    )


def open_terminal(monkeypatch):
    """In the test itself, as pytest has a stream of its own for each of its phases."""
    monkeypatch.setattr(sys, "stdout", Terminal())
    monkeypatch.setenv("TERM", "xterm")
    return sys.stdout


def test_long_records_go_to_the_file_alone(tmp_path, monkeypatch):
    terminal = open_terminal(monkeypatch)
    runner = build(tmp_path)
    runner.logger.warning("a warning\n" * 20)
    shown = terminal.getvalue()
    (file,) = tmp_path.glob("*/*.log")
    for long in ("System environment:", "Hooks will be executed"):
        assert long not in shown and long in file.read_text()
    assert shown.count("a warning") == 20
    # Once it is built, as of the tables of an evaluation.
    runner.logger.info("a table\n" * 20)
    assert terminal.getvalue().count("a table") == 20


def test_the_bar_shows_how_far_a_run_is(tmp_path, monkeypatch):
    terminal = open_terminal(monkeypatch)
    runner = build(tmp_path)
    streams = [handler.stream for handler in runner.logger.handlers]
    with progress_bar(runner):
        runner.train()
    shown = terminal.getvalue()
    assert "training" in shown and "6/6" in shown and "loss " in shown
    assert "validation" in shown and "Epoch(train)" in shown
    assert [handler.stream for handler in runner.logger.handlers] == streams
    assert sys.stdout is terminal


def test_the_bar_goes_when_a_run_fails(tmp_path, monkeypatch):
    terminal = open_terminal(monkeypatch)
    runner = build(tmp_path)
    with pytest.raises(ZeroDivisionError), progress_bar(runner):
        raise ZeroDivisionError
    assert sys.stdout is terminal
    assert terminal.getvalue().count("\x1b[?25h") == 1  # the cursor is back


def test_in_a_pipe_there_are_log_lines_alone(tmp_path, capsys):
    runner = build(tmp_path)
    with progress_bar(runner):
        runner.train()
    shown = capsys.readouterr().out
    assert "Epoch(train) [2][3/3]" in shown and "\x1b[2K" not in shown and "━" not in shown
