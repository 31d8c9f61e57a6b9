"""Several processes at once, which meet in a group, and the same end for each of them."""

from __future__ import annotations

import faulthandler
import importlib.util
import inspect
import sys
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import torch.distributed as dist
import torch.distributed.run as torchrun

from mmhcgnet.cli.launch import distributed_run

if TYPE_CHECKING:
    from .scripts import Result
    from .warm import Run, Warm

LIMIT = 120  # seconds


def run_torchrun(warm: Warm, *args: object, cwd: Path, env: dict[str, str] | None = None) -> Result:
    """Do as ``torchrun ARGS``, whose processes are forks too and have imported everything."""
    return start_torchrun(warm, *args, cwd=cwd, env=env).wait()


def start_torchrun(warm: Warm, *args: object, cwd: Path, env: dict[str, str] | None = None) -> Run:
    """Start what :func:`run_torchrun` runs."""
    options = ("--run-path", "--start-method=fork")
    return warm.start(torchrun.__file__, *options, *args, cwd=cwd, env=env)


def run_processes(
    warm: Warm,
    work: Callable[[int, str], None],
    folder: Path,
    count: int = 2,
    backend: str = "gloo",
) -> None:
    """Run ``work(rank, folder)`` in processes of their own, with one thread each.

    A process that hangs prints the stacks of its threads and ends; the others end with it.

    Args:
        warm: What starts them.
        work: A function of a file that can be imported; what it builds is freed with it, before
            the group is left.
        folder: Where it may write, and where the processes meet.
        count: How many processes.
        backend: Of the group.
    """
    command = (__file__, inspect.getfile(work), work.__name__, folder, backend, count)
    runs = [warm.start(*command, rank, cwd=folder) for rank in range(count)]
    failed_at = float("inf")
    try:
        while True:
            ended = [result for run in runs if (result := run.poll())]
            if any(result.code for result in ended):
                failed_at = min(failed_at, time.monotonic())
            # Where one fails others lose their connection to it, and may be the first to end.
            if len(ended) == count or time.monotonic() > failed_at + 5:
                break
            time.sleep(0.01)
        assert failed_at == float("inf"), "".join(result.err[-5000:] for result in ended)
    finally:
        for run in runs:
            if run.poll() is None:
                run.kill(9, group=True)


def _main(file: str, name: str, folder: str, backend: str, count: int, rank: int) -> None:
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    sys.path.insert(0, str(Path(__file__).parents[1]))
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    meeting, timeout = f"file://{folder}/meeting", timedelta(seconds=LIMIT / 2)
    with distributed_run():
        dist.init_process_group(backend, meeting, timeout, world_size=count, rank=rank)
        getattr(module, name)(rank, folder)


if __name__ == "__main__":
    *words, count, rank = sys.argv[1:]
    _main(*words, int(count), int(rank))
