"""What a run shows on a terminal, and what it leaves to the log file."""

import io
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.model import BaseModel

from mmhcgnet.cli.progress import progress_bar, report_test, report_training
from mmhcgnet.engine import build_model, load_config
from mmhcgnet.engine.configs import shipped_config
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


@pytest.mark.parametrize("lacking", [None, "test_dataloader", "test_cfg", "test_evaluator"])
def test_after_a_training_a_test_comes_next_if_the_config_has_one(lacking, tmp_path, capsys):
    tested = dict.fromkeys(("test_dataloader", "test_cfg", "test_evaluator"), dict(type="Own"))
    runner = SimpleNamespace(hooks=[], log_dir=str(tmp_path), timestamp="now")
    runner.message_hub = SimpleNamespace(runtime_info=dict(last_ckpt="a.pth"))
    runner.cfg = Config(tested | {lacking or "more": None})
    report_training(runner, "my.py")
    told = capsys.readouterr().out
    assert ("Next: python tools/test.py my.py a.pth" in told) is (lacking is None)


CLASSIFIER = dict(
    type="mmpretrain.ImageClassifier",
    backbone=dict(type="mmpretrain.LeNet5"),
    head=dict(type="mmpretrain.ClsHead"),
)


@pytest.mark.parametrize(
    "model, exportable",
    [
        (CLASSIFIER, True),
        (dict(type="mmpretrain.AverageClsScoreTTA", module=CLASSIFIER), True),
        ("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py", True),
        ("mmdet::fast_rcnn/fast-rcnn_r50_fpn_1x_coco.py", False),
        ("mmdet::fcos/fcos_r50-caffe_fpn_gn-head_1x_coco.py", True),
        ("mmdet::detr/detr_r50_8xb2-150e_coco.py", False),
        (dict(type=Model), False),
    ],
)
def test_after_a_test_an_export_comes_next_if_there_is_one(model, exportable, tmp_path, capsys):
    cfg = (
        load_config(shipped_config(model)) if isinstance(model, str) else Config(dict(model=model))
    )
    runner = SimpleNamespace(model=build_model(cfg), log_dir=str(tmp_path), timestamp="now")
    report_test(runner, "my.py", "a.pth", None, None)
    told = capsys.readouterr().out
    assert ("Export it: python tools/deployment/export.py my.py a.pth" in told) is exportable
