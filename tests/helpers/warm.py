"""Runs scripts in forks of a process that has imported the toolboxes: a second each, not ten.

Tests and campaigns run the tools hundreds of times, and each start of Python would import for
seconds. The forks are as good as new processes: the one that they come of has run nothing but
imports, and none of this project. They end with it.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from contextlib import suppress
from pathlib import Path

from .scripts import Result


class Run:
    """A run that goes on in the background, in a session (process group) of its own."""

    def __init__(self, server: Warm, pid: int, output: Path) -> None:
        self.pid, self._server, self._output = pid, server, output
        self._result: Result | None = None

    def kill(self, signum: int, group: bool = False) -> None:
        """Send a signal to the process, or to its dataloaders' workers, too."""
        (_kill_session if group else os.kill)(self.pid, signum)

    def poll(self) -> Result | None:
        """The result, or ``None`` while it runs."""
        if self._result is None and (code := self._server._ask(dict(poll=self.pid))) is not None:
            out, err = (self._read(name) for name in ("out", "err"))
            self._result = Result(code, out, err)
        return self._result

    def wait(self, timeout: float = 120) -> Result:
        """Wait for the end.

        Raises:
            TimeoutError: After ``timeout`` seconds; the run and its workers are killed.
        """
        end = time.monotonic() + timeout
        while (result := self.poll()) is None:
            if time.monotonic() > end:
                self.kill(9, group=True)
                tail = self._read("out")[-2000:] + self._read("err")[-2000:]
                raise TimeoutError(f"no end after {timeout} s:\n{tail}")
            time.sleep(0.01)
        return result

    def _read(self, name: str) -> str:
        return Path(f"{self._output}.{name}").read_text(errors="replace")


class Warm:
    """The process that forks. Use it as a context manager; tests have the fixture ``warm``.

    Args:
        imports: Whether it imports the toolboxes first.
    """

    def __init__(self, imports: bool = True) -> None:
        self._imports = imports

    def __enter__(self) -> Warm:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "helpers.warm", *(["--import"] if self._imports else [])],
            cwd=Path(__file__).parents[1],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"
        return self

    def __exit__(self, *_: object) -> None:
        # Not just the end of the pipe, which a fork of this process may still hold.
        with suppress(BrokenPipeError):
            self._process.stdin.write("\n")
            self._process.stdin.close()
        self._process.wait(timeout=30)

    def start(
        self, script: Path | str, *args: object, cwd: Path, env: dict[str, str] | None = None
    ) -> Run:
        """Start a script as ``python SCRIPT ARGS`` in a folder."""
        logs = Path(cwd) / ".runs"
        logs.mkdir(exist_ok=True)
        output = logs / str(len(list(logs.glob("*.out"))))
        Path(f"{output}.out").touch()  # so that the next one has another name
        argv = [str(script), *map(str, args)]
        request = dict(argv=argv, cwd=str(cwd), output=str(output), env=env or {})
        return Run(self, self._ask(request), output)

    def run(
        self,
        script: Path | str,
        *args: object,
        cwd: Path,
        env: dict[str, str] | None = None,
        timeout: float = 120,
    ) -> Result:
        """Run a script to its end."""
        return self.start(script, *args, cwd=cwd, env=env).wait(timeout)

    def _ask(self, request: dict) -> object:
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read()

    def _read(self) -> object:
        return json.loads(self._process.stdout.readline())


def _kill_session(pid: int, signum: int) -> None:
    try:
        os.killpg(pid, signum)
    except ProcessLookupError:  # it has just been forked, and its session is yet to come
        os.kill(pid, signum)


def _import_toolboxes() -> None:
    import mmcv.ops  # noqa: F401
    import mmdet.apis
    import mmdet.utils
    import mmpretrain.apis
    import mmpretrain.utils

    # All that a build from a config would import first.
    for toolbox in (mmdet, mmpretrain):
        toolbox.utils.register_all_modules(init_default_scope=False)
    assert "mmhcgnet" not in sys.modules  # takes no time, and some ask where it is imported first


def _serve() -> None:
    # Its own answers go to the pipe; what the imports print does not.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if "--import" in sys.argv:
        _import_toolboxes()

    def answer(what: object) -> None:
        print(json.dumps(what), file=answers, flush=True)

    gc.freeze()
    # After Ctrl-C, too, the end comes when whoever has started this closes the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    running = set()
    answer("ready")
    for line in sys.stdin:
        if not line.strip():
            break
        request = json.loads(line)
        if "poll" in request:
            pid, status = os.waitpid(request["poll"], os.WNOHANG)
            running.discard(pid)
            answer(os.waitstatus_to_exitcode(status) if pid else None)
        elif pid := os.fork():
            running.add(pid)
            answer(pid)
        else:
            answers.close()
            _run(**request)
    for pid in running:
        _kill_session(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def _run(argv: list[str], cwd: str, output: str, env: dict[str, str]) -> None:
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.update(env)
    files = (os.devnull, os.O_RDONLY), (f"{output}.out", None), (f"{output}.err", None)
    for target, (path, flags) in enumerate(files):
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if flags is None else flags
        descriptor = os.open(path, flags)
        os.dup2(descriptor, target)
        os.close(descriptor)
    sys.stdin = open(os.devnull)
    import torch

    torch.set_num_threads(1)
    sys.argv, sys.path[0] = argv, str(Path(argv[0]).parent)
    code: object = 0
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as end:
        code = end.code
    except BaseException:
        traceback.print_exc()
        code = 1
    if isinstance(code, str):
        print(code, file=sys.stderr)
    # As at any end of Python, but for freeing what was imported, which takes a second.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    _serve()
