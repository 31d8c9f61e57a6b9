"""What a run shows while it works and when it ends."""

from __future__ import annotations

import importlib
import io
import logging
import os
import shlex
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.runner import Runner
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from mmhcgnet.engine.configs import toolbox
from mmhcgnet.engine.export import check_exportable
from mmhcgnet.engine.models import unwrapped
from mmhcgnet.errors import UsageError, readable

from .launch import launched_rank

# Of packages that a run need not have, and of what MMEngine sets by itself.
_NOISE = (
    "Could not import OneDL",
    "faster_coco_eval is not installed",
    "Setting OMP_NUM_THREADS environment variable for each process",
    "Setting MKL_NUM_THREADS environment variable for each process",
)


class _ProgressHook(Hook):
    """Moves the bars of a training, and of a validation or test within it."""

    priority = "VERY_LOW"

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._training: TaskID | None = None
        self._evaluation: TaskID | None = None

    def before_train(self, runner: Runner) -> None:
        self._training = self._progress.add_task(
            "training", total=runner.max_iters, completed=runner.iter, note=""
        )

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        scalars = runner.message_hub.log_scalars
        note = f"loss {scalars['train/loss'].current():.3f}" if "train/loss" in scalars else ""
        # What is logged comes before the iteration is counted.
        self._progress.update(self._training, completed=runner.iter + 1, note=note)

    def after_train(self, runner: Runner) -> None:
        self._progress.refresh()

    def before_val_epoch(self, runner: Runner) -> None:
        self._begin("validation", runner.val_dataloader)

    def before_test_epoch(self, runner: Runner) -> None:
        self._begin("test", runner.test_dataloader)

    def after_val_iter(self, *args: Any, **kwargs: Any) -> None:
        self._progress.advance(self._evaluation)

    after_test_iter = after_val_iter

    def after_val_epoch(self, *args: Any, **kwargs: Any) -> None:
        self._progress.remove_task(self._evaluation)

    after_test_epoch = after_val_epoch

    def _begin(self, what: str, batches: Any) -> None:
        self._evaluation = self._progress.add_task(what, total=len(batches), note="")
        self._progress.refresh()


def leave_out_noise(cfg: Config) -> None:
    """Import the toolbox of a config, and leave out messages that concern nobody.

    In a distributed run, the first process alone prints and warns; errors are shown by all.

    Args:
        cfg: The config, its ``launcher`` set if there is one.
    """
    if launched_rank(cfg.get("launcher", "none")) > 0:
        warnings.simplefilter("ignore")
        sys.stdout = open(os.devnull, "w")
    for text in _NOISE:
        warnings.filterwarnings("ignore", message=text)
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            importlib.import_module(f"{toolbox(cfg) or 'mmengine'}.datasets")
    except ImportError:  # whoever needs it says so
        pass
    finally:
        for line in printed.getvalue().splitlines():
            if not line.startswith(_NOISE):
                print(line)


@contextmanager
def progress_bar(runner: Runner) -> Iterator[None]:
    """Show how far a run is, its loss and the time that remains, if the output is a terminal.

    Log lines go above the bar. In a file or a pipe there are only these lines.

    Args:
        runner: It trains or tests in this context.
    """
    if not (is_main_process() and sys.stdout.isatty()):
        yield
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
        console=Console(),  # as the terminal is now
        refresh_per_second=2,
        transient=True,
    )
    runner.register_hook(_ProgressHook(bar))
    terminals = [
        handler
        for handler in runner.logger.handlers
        if isinstance(handler, logging.StreamHandler)
        and not isinstance(handler, logging.FileHandler)
    ]
    streams = [handler.stream for handler in terminals]
    with bar:
        # Within, sys.stdout prints above the bar.
        for handler in terminals:
            handler.setStream(sys.stdout)
        try:
            yield
        finally:
            for handler, stream in zip(terminals, streams, strict=True):
                handler.setStream(stream)


def report_training(runner: Runner, config: str) -> None:
    """Say where a training has put what, and which command comes next.

    Args:
        runner: It has trained.
        config: The config as the user named it.
    """
    bests = [vars(hook).get("best_ckpt_path") for hook in runner.hooks]
    best = next((path for path in bests if path), None)
    last = runner.message_hub.runtime_info.get("last_ckpt")
    lines = {"Last checkpoint": last, "Best checkpoint": best, **_written(runner)}
    tested = ("test_dataloader", "test_cfg", "test_evaluator")
    if (best or last) and all(runner.cfg.get(key) is not None for key in tested):
        lines["Next"] = _command("tools/test.py", config, best or last)
    _report(lines)


def report_test(
    runner: Runner, config: str, checkpoint: str, out: str | None, show_dir: str | None
) -> None:
    """Say where a test has put what, and which command comes next.

    Args:
        runner: It has tested.
        config: The config as the user named it.
        checkpoint: What was tested, as the user named it; it can be exported if the model can.
        out: Where predictions or metrics went, if anywhere.
        show_dir: Where images of predictions went, if anywhere.
    """
    lines = {"Output": out, **_written(runner, show_dir)}
    with suppress(UsageError):
        check_exportable(unwrapped(runner.model))
        export = _command("tools/deployment/export.py", config, checkpoint, "-o", "model.onnx")
        lines["Export it"] = export
    _report(lines)


def _written(runner: Runner, *others: str | None) -> dict[str, str | None]:
    """The log and the folder of images, where there are some."""
    log = Path(runner.log_dir, f"{runner.timestamp}.log")
    folders = [path for path in (runner.log_dir, *others) if path]
    images = (file for folder in folders for file in Path(folder).rglob("*.[jp][pn]g"))
    first = next(images, None)
    return {"Log": str(log) if log.exists() else None, "Images": first and str(first.parent)}


def _command(script: str, *args: str) -> str:
    return f"python {script} {shlex.join(args)}"


def _report(lines: dict[str, str | None]) -> None:
    if is_main_process():
        print()
        for what, value in lines.items():
            if value:
                print(f"{what}: {readable(value)}")
