"""Checkpoint files: read as data and never as programs, written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from mmengine.runner import CheckpointLoader

from mmhcgnet.models.pretrained import find_weights

from .errors import UsageError

SAFETENSORS = ".safetensors"
_BESIDE = "mmhcgnet"  # the entry of the metadata with what stands beside the tensors
_REFUSED = re.compile(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)")


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a file of PyTorch or of safetensors without running anything that it asks for.

    Allowed beside tensors and Python's numbers, texts and containers are NumPy's numbers, which
    become Python's, and the log history of MMEngine's checkpoints, which is left out.

    Args:
        path: A local file; one of safetensors ends in ``.safetensors``.

    Returns:
        What the file holds, on the CPU; of safetensors, the tensors as ``state_dict`` and beside
        them what :func:`encode_checkpoint` has added.

    Raises:
        UsageError: If it cannot be read, or holds or asks for anything else, or PyTorch is older
            than 2.4.
    """
    try:
        checkpoint = _read_safetensors(path) if path.endswith(SAFETENSORS) else _read_torch(path)
    except OSError as error:
        raise UsageError(f"The checkpoint {path} cannot be read: {error}") from error
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise UsageError(f"The checkpoint {path} holds a {kind} and no weights by name.")
    return checkpoint


def load_from_safetensors(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Read a file for MMEngine, which moves the tensors to where they belong by itself."""
    return read_checkpoint(filename)


def register_safetensors() -> None:
    """Let MMEngine load a file of safetensors wherever a flag or a config names one."""
    CheckpointLoader.register_scheme(rf".*\{SAFETENSORS}$", load_from_safetensors, force=True)


def encode_checkpoint(checkpoint: dict[str, Any], path: str) -> bytes:
    """Turn a checkpoint into the content of a file.

    Args:
        checkpoint: What to write. Safetensors hold its tensors and, as JSON, all that stands
            beside them, such as ``meta``.
        path: Tells the format by its end: safetensors or else PyTorch's.

    Raises:
        UsageError: If the package safetensors is needed and not installed.
    """
    if path.endswith(SAFETENSORS):
        weights = find_weights(checkpoint)
        beside = {key: value for key, value in checkpoint.items() if value is not weights}
        # One entry alone: safetensors writes several in an order that varies.
        metadata = {_BESIDE: json.dumps(beside)}
        return _import_safetensors(path).torch.save(weights, metadata=metadata)
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def write_atomically(path: str, content: bytes) -> None:
    """Write a file so that at any moment, a power cut included, it is whole or as before.

    Args:
        path: The file; its folder is made if it is not there.
        content: All of it.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    # The new name is on the disk only once the folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _read_torch(path: str) -> Any:
    if not hasattr(torch.serialization, "add_safe_globals"):
        raise UsageError(
            f"The checkpoint {path} is not read: to do so without running code from it takes "
            f"PyTorch 2.4 or newer, and this is {torch.__version__}."
        )
    # Before PyTorch 2.6, weights_only=True did not hold for the oldest format, an archive by tar.
    if tarfile.is_tarfile(path):
        raise UsageError(f"The checkpoint {path} is an archive by tar: unpack it first.")
    try:
        with _allowed(_STAND_INS):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # what a damaged file makes PyTorch raise has no common type
        refused = _REFUSED.search(str(error))
        if refused:
            raise UsageError(
                f"The checkpoint {path} is refused and nothing in it was run: it asks for "
                f"{refused[1]}, and weights need no more than tensors, numbers and texts; save "
                "these alone, on a machine where you trust the file."
            ) from error
        raise UsageError(
            f"The checkpoint {path} cannot be read: it is damaged or cut short, or no checkpoint "
            "of PyTorch; compare its size with the original's and fetch it again."
        ) from error


@contextmanager
def _allowed(stand_ins: list[type]) -> Iterator[None]:
    """Allow these and nothing else, also of what other packages have allowed."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(stand_ins)
    try:
        yield
    finally:
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(before)


def _read_safetensors(path: str) -> dict[str, Any]:
    safetensors = _import_safetensors(path)
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            state_dict = {name: file.get_tensor(name) for name in file.keys()}
            beside = json.loads((file.metadata() or {}).get(_BESIDE, "{}"))
    except (safetensors.SafetensorError, ValueError) as error:
        raise UsageError(f"The checkpoint {path} cannot be read: {error}") from error
    if not isinstance(beside, dict):
        raise UsageError(f"The checkpoint {path} cannot be read: its entry {_BESIDE} is no dict.")
    return dict(beside, state_dict=state_dict)


def _import_safetensors(path: str) -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise UsageError(
            f"{path} needs the package safetensors: pip install 'mmhcgnet[safetensors]'"
        ) from error
    return safetensors


class _Ignored:
    """Takes whatever it is made of and keeps nothing."""

    def __new__(cls, *_: Any) -> _Ignored:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


class _NumberType:
    """The type of a NumPy number: its kind, its size in bytes and its byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch("b1|[iu][1248]|f[248]", code):
            raise UnpicklingError("GLOBAL numpy.dtype was not an allowed global")
        self.code = code

    def __setstate__(self, state: tuple) -> None:
        self.code = state[1] + self.code


class _Number:
    """A NumPy number, which becomes one of Python's."""

    def __new__(cls, kind: _NumberType, data: bytes) -> bool | int | float:
        return np.frombuffer(data, kind.code, count=1)[0].item()


class _Bytes:
    """Bytes as pickle writes them; newer versions of PyTorch allow them by themselves."""

    def __new__(cls, text: str, encoding: str) -> bytes:
        return text.encode("latin1")


# All that a file may ask for besides what PyTorch itself allows. It gets these stand-ins, which
# do nothing else, and never the function or class that it names.
_STAND_INS = [
    # PyTorch knows them by their module and name.
    type(name, (base,), dict(__module__=module))
    for module, name, base in (
        ("_codecs", "encode", _Bytes),
        ("numpy", "dtype", _NumberType),
        ("numpy.core.multiarray", "scalar", _Number),  # NumPy 1
        ("numpy._core.multiarray", "scalar", _Number),  # NumPy 2
        # The log history in MMEngine's checkpoints.
        ("numpy", "ndarray", _Ignored),
        ("numpy.core.multiarray", "_reconstruct", _Ignored),
        ("numpy._core.multiarray", "_reconstruct", _Ignored),
        ("mmengine.logging.history_buffer", "HistoryBuffer", _Ignored),
        ("builtins", "getattr", _Ignored),
        # How this scheduler anneals; a scheduler that resumes is built by the config.
        ("mmengine.optim.scheduler.param_scheduler", "OneCycleParamScheduler", _Ignored),
    )
]
