"""The content of a checkpoint file: read as data, in one go, and written with a checksum."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import zipfile
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch
from torch import Tensor

from mmhcgnet.errors import UsageError
from mmhcgnet.weights import find_weights, listed

from .durable_files import is_whole, seal
from .unpickling import RefusedError, Unpickler

SAFETENSORS = ".safetensors"
_LEGACY = 0x1950A86A20F9469CFC6C  # what PyTorch's files before 1.6 begin with
_BESIDE = "mmhcgnet"  # the entry of the metadata with what stands next to the tensors
_DIGEST = "mmhcgnet_sha256"  # in there, of the whole file with 64 zeros in this place
_DIGEST_IN_FILE = re.compile(rf'{_DIGEST}\\": \\"([0-9a-f]{{64}})\\"'.encode())


class _UnreadableError(Exception):
    """Says what is wrong with a file, in a clause."""


class _DamagedError(_UnreadableError):
    def __init__(self) -> None:
        super().__init__(
            "is damaged or cut short, as its checksum shows: take an older one, or fetch it again"
        )


def read_checkpoint(path: str, in_full: bool = True) -> dict[str, Any]:
    """Read a file of PyTorch or of safetensors without running anything that it asks for.

    It holds tensors, Python's numbers, strings and containers, NumPy's arrays, and the log history
    of MMEngine's checkpoints; other kinds of dicts, numbers and strings become Python's. The file
    is opened once, and compared with its checksum if it has one.

    Args:
        path: A local file; one of safetensors ends in ``.safetensors``.
        in_full: Otherwise all but the tensors, which are ``None``, and unchecked, which is quick.

    Returns:
        What the file holds, on the CPU; of safetensors, the tensors as ``state_dict`` along
        with what :func:`encode_checkpoint` has added.

    Raises:
        UsageError: If it cannot be read, was changed, or holds or asks for anything else.
    """
    try:
        if os.path.exists(path) and not os.path.isfile(path):  # to open a pipe takes for ever
            raise _UnreadableError("cannot be read: it is a directory or device and not a file")
        with open(path, "rb") as file:
            if path.lower().endswith(SAFETENSORS):
                checkpoint = _read_safetensors(file, path)
            else:
                checkpoint = _read_torch(file, in_full)
        if not isinstance(checkpoint, dict):
            kind = type(checkpoint).__name__
            raise _UnreadableError(f"holds a {kind} instead of weights by name")
    except UsageError:
        raise
    except _UnreadableError as error:
        raise UsageError(f"The checkpoint {path} {error}.") from error
    except (OSError, MemoryError) as error:
        reason = str(error) or "there is not enough memory"
        raise UsageError(f"The checkpoint {path} cannot be read: {reason}.") from error
    except RefusedError as error:
        raise UsageError(
            f"The checkpoint {path} is refused and nothing in it was run: it asks for "
            f"{error.name}, but weights need only tensors, numbers and strings; save "
            "these alone, on a machine where you trust the file."
        ) from error
    except Exception as error:  # what a damaged file makes its readers raise has no common type
        told = f" ({error})" if isinstance(error, UnpicklingError) else ""
        raise UsageError(
            f"The checkpoint {path} cannot be read: it is damaged or cut short, or not a "
            f"checkpoint of PyTorch{told}; compare its size with the original's and fetch it again."
        ) from error
    return checkpoint


def encode_checkpoint(checkpoint: dict[str, Any], path: str) -> bytes:
    """Turn a checkpoint into the content of a file, with a SHA-256 of it all.

    Args:
        checkpoint: What to write. Safetensors hold its tensors and, as JSON, all that stands
            next to them, such as ``meta``.
        path: Its end says the format: safetensors or else PyTorch's.

    Raises:
        UsageError: If the package safetensors is needed and not installed, or has no place for
            something among the tensors.
    """
    if path.lower().endswith(SAFETENSORS):
        weights = find_weights(checkpoint)
        others = [name for name, value in weights.items() if not isinstance(value, Tensor)]
        if others:
            raise UsageError(
                f"{path} cannot be written: safetensors hold tensors alone, and among them are "
                f"{listed(others, 'of another kind')}; name a file that ends in .pth."
            )
        beside = {key: value for key, value in checkpoint.items() if value is not weights}
        # The format knows neither tensors that share memory nor other orders than NCHW.
        order = torch.contiguous_format
        weights = {name: tensor.clone(memory_format=order) for name, tensor in weights.items()}
        # One entry alone: safetensors writes several in an order that varies.
        metadata = {_BESIDE: json.dumps({**beside, _DIGEST: "0" * 64})}
        content = _import_safetensors(path).save(weights, metadata=metadata)
        place = _DIGEST_IN_FILE.search(content)
        return _with_digest(content, place, hashlib.sha256(content).hexdigest().encode())
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return seal(buffer.getvalue())


def _read_torch(file: BinaryIO, in_full: bool) -> Any:
    beginning = file.read(512)
    file.seek(0)
    if beginning.startswith(b"PK\x03\x04"):
        if in_full and not is_whole(file):
            raise _DamagedError
        return _read_zip(file, in_full)
    if beginning and not any(beginning):
        raise _UnreadableError(
            "holds only zeros, like a file that a crash has cut off: take another one"
        )
    if beginning[257:262] == b"ustar":
        raise _UnreadableError("is a tar archive: unpack it first")
    return _read_legacy(file, in_full)


def _read_zip(file: BinaryIO, in_full: bool) -> Any:
    with zipfile.ZipFile(file) as archive:
        names = set(archive.namelist())
        (folder,) = {name.rpartition("/")[0] for name in names if name.endswith("/data.pkl")}
        if f"{folder}/constants.pkl" in names:
            raise _UnreadableError(
                "is refused and nothing in it was run: it is a program for TorchScript; save the "
                "weights alone, on a machine where you trust the file"
            )
        order = f"{folder}/byteorder"
        order = archive.read(order) if order in names else b"little"
        storages: dict[str, Tensor] = {}

        def find(pid: tuple) -> Tensor | None:
            dtype, key, _, count = pid
            record = archive.getinfo(f"{folder}/data/{key}")
            if record.file_size != count * dtype.itemsize:
                raise _DamagedError
            if in_full and key not in storages:
                storages[key] = _blank(record.file_size)
                with archive.open(record) as source:
                    _fill(storages[key], source, dtype, order)
            return storages[key].view(dtype) if in_full else None

        try:
            content = archive.read(f"{folder}/data.pkl")
            return Unpickler(io.BytesIO(content), find).load()
        except zipfile.BadZipFile as error:
            raise _DamagedError from error


def _read_legacy(file: BinaryIO, in_full: bool) -> Any:
    """Read the format before PyTorch 1.6: five pickles, then the numbers of all tensors."""
    left = os.fstat(file.fileno()).st_size
    storages: dict[str, tuple[Tensor, torch.dtype]] = {}

    def find(pid: tuple) -> Tensor | None:
        nonlocal left
        dtype, key, _, count, _ = pid
        if in_full and key not in storages:
            left -= count * dtype.itemsize
            if left < 0:
                raise UnpicklingError("it claims to hold more than its size")
            storages[key] = _blank(count * dtype.itemsize), dtype
        return storages[key][0].view(dtype) if in_full else None

    if Unpickler(file).load() != _LEGACY:
        raise UnpicklingError("its beginning is another's")
    for _ in ("version", "machine"):
        Unpickler(file).load()
    content = Unpickler(file, find).load()
    for key in Unpickler(file).load() if in_full else ():
        storage, dtype = storages[key]
        if int.from_bytes(file.read(8), "little") * dtype.itemsize != len(storage):
            raise UnpicklingError("a tensor has another size than it should")
        _fill(storage, file, dtype, b"little")
    return content


def _blank(size: int) -> Tensor:
    """Memory for numbers of whatever type."""
    return torch.frombuffer(bytearray(size), dtype=torch.uint8) if size else torch.empty(0).byte()


def _fill(storage: Tensor, source: Any, dtype: torch.dtype, order: bytes) -> None:
    if source.readinto(memoryview(storage.numpy())) != len(storage):
        raise UnpicklingError("a tensor is cut short")
    if order not in (b"little", b"big"):
        raise UnpicklingError("the order of its bytes is unknown")
    if order != sys.byteorder.encode() and len(storage):
        storage.untyped_storage().byteswap(dtype)


def _read_safetensors(file: BinaryIO, path: str) -> dict[str, Any]:
    load = _import_safetensors(path).load
    content = file.read()
    place = _DIGEST_IN_FILE.search(content)
    if place is not None:
        blank = _with_digest(content, place, b"0" * 64)
        if hashlib.sha256(blank).hexdigest().encode() != place[1]:
            raise _DamagedError
    try:
        state_dict = load(content)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        beside = json.loads(header.get("__metadata__", {}).get(_BESIDE, "{}"))
    except Exception as error:  # as above
        raise _UnreadableError(f"cannot be read: {error}") from error
    if not isinstance(beside, dict) or beside and (place is None or _DIGEST not in beside):
        raise _UnreadableError(
            f"cannot be read: its entry {_BESIDE} was changed after it was written: write it again"
        )
    beside.pop(_DIGEST, None)
    return dict(beside, state_dict=state_dict)


def _with_digest(content: bytes, place: re.Match, digest: bytes) -> bytes:
    return content[: place.start(1)] + digest + content[place.end(1) :]


def _import_safetensors(path: str) -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise UsageError(
            f"{path} needs the package safetensors: pip install safetensors"
        ) from error
    return safetensors.torch
