"""Mistakes of the user, reported in one sentence instead of a traceback."""

from __future__ import annotations

import errno
import os
import re
import signal
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from traceback import walk_tb
from typing import Any, TextIO

from mmhcgnet.datasets.checks.explain import explain_building_error
from mmhcgnet.errors import ReadableError, UsageError, readable

from .launch import first_of_all

_IN_WORKER = re.compile(r"'?Caught \S+ in DataLoader worker process")
_LAST_ERROR = re.compile(r"^[\w.]*Error: ", re.MULTILINE)
_TIMED_OUT = re.compile(r"DataLoader timed out after (\S+) seconds")
_WORKER_DIED = re.compile(
    r"killed by signal: [^.]*|DataLoader worker \(pid\(?s?\)?[^)]*\) exited unexpectedly[^.]*"
)
# As PyTorch says it.
_NO_SHARED_MEMORY = re.compile(r"unable to (allocate|open|write).{0,20}shared memory|torch_shm")
_NO_MEMORY = re.compile(r"can't allocate memory|not enough memory|CUDA out of memory")
# What a file system answers that is full, or read-only, or laid out differently than was thought.
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)
_CHECK_DATA = "`python tools/misc/check_data.py CONFIG` finds damaged files"


@contextmanager
def report_usage_errors(launcher: str = "none") -> Iterator[None]:
    """Turn a mistake of the user into ``error: sentence`` on stderr and exit code 2.

    So are faults of the data: what a data set raises while it is built or loads a sample, and the
    end or silence of a dataloader's worker. Ctrl-C where no training has taken it over ends with
    one word and 130, and a second one ends the process at once. What is printed may find nobody to
    read it (``| head``, a terminal that was closed).

    In a distributed run the first process that meets a mistake reports it, and the others, which
    mostly meet the same one, end in silence.

    Args:
        launcher: The ``--launcher`` of the script.
    """
    try:
        with _lasting_output():
            yield
    except KeyboardInterrupt:
        with suppress(ValueError):  # in a thread
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        _say("Interrupted.")
        sys.exit(130)
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        # PyTorch would raise from this signal, at any time, that a worker of a dataloader has died.
        with suppress(AttributeError, ValueError):  # on Windows, in a thread
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        with first_of_all(launcher) as first:
            if first:
                _say(f"error: {readable(sentence)}")
        sys.exit(2)


def _say(text: str) -> None:
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class _Lasting:
    """A stream whose reader may end before the run: what it cannot take is left out."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write if there is somebody to read it."""
        try:
            return self._stream.write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        """Flush if there is somebody to read it."""
        try:
            self._stream.flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        # Otherwise Python would try once more at its end, and give another exit code.
        if error.errno in (errno.EPIPE, errno.EIO):
            with suppress(OSError), open(os.devnull, "w") as nobody:
                os.dup2(nobody.fileno(), self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def _lasting_output() -> Iterator[None]:
    """Let nothing that is printed here raise because a pipe or a terminal has gone."""
    former = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = (stream and _Lasting(stream) for stream in former)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            if stream is not None:
                stream.flush()
        sys.stdout, sys.stderr = former


def _sentence(error: Exception) -> str | None:
    """What the user reads about an error, or ``None`` if it is not their mistake."""
    # Raised in a worker, an error of ours has a message of many lines.
    text = str(error.args[0] if isinstance(error, ReadableError) and error.args else error)
    if _NO_SHARED_MEMORY.search(text):
        return (
            "Workers cannot hand over their batches, as the shared memory (/dev/shm) is full: "
            "enlarge it, with docker by `docker run --shm-size 8g`, or load without workers, with "
            "--cfg-options train_dataloader.num_workers=0 (or val_, test_)."
        )
    in_worker = _IN_WORKER.match(text)
    if isinstance(error, UsageError):
        # Raised in a worker, it arrives with the whole traceback for its message.
        return _LAST_ERROR.split(text)[-1].strip() if in_worker else text
    if in_worker:
        told = textwrap.shorten(text.strip().rpartition("\n")[2], 400, placeholder=" …")
        return f"A dataloader's worker cannot load a sample: {told}; {_CHECK_DATA}."
    if match := _TIMED_OUT.match(text):
        return (
            f"A dataloader's worker has sent nothing for {match[1]} seconds, as when a file hangs "
            "on a network drive: make sure that all images can be read, or wait longer with "
            "--cfg-options train_dataloader.timeout=SECONDS (or val_, test_; 0 for ever)."
        )
    match = _WORKER_DIED.search(text)
    if match or _lost_worker(error):
        return (
            f"A dataloader's worker has ended ({match[0] if match else text}): if memory ran out, "
            "use less of it with --cfg-options train_dataloader.num_workers=1 (or val_, test_; a "
            f"bus error means that /dev/shm is full); if a file crashed it, {_CHECK_DATA}."
        )
    if isinstance(error, MemoryError) or _NO_MEMORY.search(text):
        return (
            "Memory has run out: use less of it with a smaller train_dataloader.batch_size (or "
            f"val_, test_), smaller images or fewer workers ({textwrap.shorten(text, 200)})."
        )
    if getattr(error, "errno", None) == errno.EMFILE or "Too many open files" in text:
        return (
            "Too many files are open: raise the limit with `ulimit -n 4096`, or use fewer workers "
            "with --cfg-options train_dataloader.num_workers=1 (or val_, test_)."
        )
    if (explained := explain_building_error(error)) is not None:
        return str(explained)
    if isinstance(error, OSError) and error.errno in _FULL:
        return f"{error.filename or 'A file'} cannot be written: {error.strerror}; free some space."
    if isinstance(error, OSError) and error.errno in _REFUSED and error.filename is not None:
        return f"{error.filename} cannot be read or written: {error.strerror}."
    return None


def _lost_worker(error: Exception) -> bool:
    """Whether a worker was gone before the batch that it had announced was fetched from it."""
    return isinstance(error, OSError | EOFError) and any(
        frame.f_code.co_name == "_try_get_data" for frame, _ in walk_tb(error.__traceback__)
    )
