"""Checkpoint files: read as data and never as programs, written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.client import HTTPException
from typing import Any
from urllib.parse import urlparse

import torch
from mmengine.dist import barrier, get_rank
from mmengine.fileio import get_file_backend
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import (
    _get_mmengine_home,
    _process_mmcls_checkpoint,
    get_deprecated_model_names,
    get_external_models,
    get_mmcls_models,
    get_torchvision_models,
)

from mmhcgnet.errors import MissingFileError, UsageError, did_you_mean
from mmhcgnet.weights import find_weights

from .files import seal, verify
from .stand_ins import STAND_INS, to_real

SAFETENSORS = ".safetensors"
_BESIDE = "mmhcgnet"  # the entry of the metadata with what stands beside the tensors
_DIGEST = "mmhcgnet_sha256"  # in there, of the whole file with 64 zeros in this place
_DIGEST_IN_FILE = re.compile(rf'{_DIGEST}\\": \\"([0-9a-f]{{64}})\\"'.encode())
_REFUSED = re.compile(r"GLOBAL ([\w.]+) (?:was not an allowed|whose module)")


def read_checkpoint(path: str) -> dict[str, Any]:
    """Read a file of PyTorch or of safetensors without running anything that it asks for.

    Allowed beside tensors and Python's numbers, texts and containers are NumPy's numbers, which
    become Python's, its arrays of numbers, and the log history of MMEngine's checkpoints. A file
    that has a checksum is compared with it first (see :func:`mmhcgnet.engine.files.verify`).

    Args:
        path: A local file; one of safetensors ends in ``.safetensors``.

    Returns:
        What the file holds, on the CPU; of safetensors, the tensors as ``state_dict`` and beside
        them what :func:`encode_checkpoint` has added.

    Raises:
        UsageError: If it cannot be read, was changed, or holds or asks for anything else, or
            PyTorch is older than 2.4.
    """
    try:
        checkpoint = _read_safetensors(path) if path.endswith(SAFETENSORS) else _read_torch(path)
    except OSError as error:
        raise UsageError(f"The checkpoint {path} cannot be read: {error}") from error
    if not isinstance(checkpoint, dict):
        kind = type(checkpoint).__name__
        raise UsageError(f"The checkpoint {path} holds a {kind} and no weights by name.")
    return checkpoint


def read_outline(path: str) -> dict[str, Any]:
    """Read a file of PyTorch as :func:`read_checkpoint` does, but quickly and for a glance only.

    The tensors stay on the disk, mapped into memory, and nothing is compared with a checksum.

    Raises:
        UsageError: As :func:`read_checkpoint`, unless only a checksum would tell.
    """
    try:
        outline = _read_torch(path, in_full=False)
    except OSError as error:
        raise UsageError(f"The checkpoint {path} cannot be read: {error}") from error
    return outline if isinstance(outline, dict) else {}


def use_safe_loader() -> None:
    """Let MMEngine read checkpoints by :func:`read_checkpoint`, wherever a path or URL names one.

    MMEngine's own loader runs what a file asks for when PyTorch's restricted reader refuses it.
    After this call that of the whole process, which MMDetection's ``init_detector`` and
    MMPretrain's ``get_model`` use as well as ``load_from``, resuming and
    ``init_cfg=dict(type="Pretrained")``,

    - takes the same names as before, and files of safetensors,
    - has all tensors on the CPU; MMEngine moves them to where they belong,
    - leaves out the text of the config that MMEngine saves in a checkpoint, as resuming and the
      inferencers would execute it: these need the config by another way.

    Raises, when it is used, what :func:`read_checkpoint` does, a :class:`MissingFileError` for a
    local file that is not there, and a :class:`UsageError` for what cannot be fetched.
    """
    for kind, (prefixes, read) in _SCHEMES.items():
        CheckpointLoader.register_scheme(prefixes, _make_loader(kind, read), force=True)


def encode_checkpoint(checkpoint: dict[str, Any], path: str) -> bytes:
    """Turn a checkpoint into the content of a file, with a SHA-256 of it all.

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
        metadata = {_BESIDE: json.dumps({**beside, _DIGEST: "0" * 64})}
        content = _import_safetensors(path).torch.save(weights, metadata=metadata)
        place = _DIGEST_IN_FILE.search(content)
        return _with_digest(content, place, hashlib.sha256(content).hexdigest().encode())
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return seal(buffer.getvalue())


def _read_torch(path: str, in_full: bool = True) -> Any:
    if not hasattr(torch.serialization, "add_safe_globals"):
        raise UsageError(
            f"The checkpoint {path} is not read: to do so without running code from it takes "
            f"PyTorch 2.4 or newer, and this is {torch.__version__}."
        )
    if in_full:
        verify(path)
    # Before PyTorch 2.6, weights_only=True did not hold for two formats: the oldest one, an archive
    # by tar, and programs for TorchScript.
    if tarfile.is_tarfile(path):
        raise UsageError(f"The checkpoint {path} is an archive by tar: unpack it first.")
    zipped = zipfile.is_zipfile(path)
    if zipped and _holds_torchscript(path):
        raise UsageError(
            f"The checkpoint {path} is refused and nothing in it was run: it is a program for "
            "TorchScript; save the weights alone, on a machine where you trust the file."
        )
    try:
        with _allowed(STAND_INS):
            mapped = zipped and not in_full
            return to_real(torch.load(path, map_location="cpu", weights_only=True, mmap=mapped))
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


def _holds_torchscript(path: str) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("constants.pkl") for name in archive.namelist())
    except (zipfile.BadZipFile, ValueError):  # damaged, as PyTorch will tell
        return False


def _read_safetensors(path: str) -> dict[str, Any]:
    safetensors = _import_safetensors(path)
    with open(path, "rb") as file:
        content = file.read()
    place = _DIGEST_IN_FILE.search(content)
    if place is not None:
        blank = _with_digest(content, place, b"0" * 64)
        if hashlib.sha256(blank).hexdigest().encode() != place[1]:
            raise UsageError(
                f"The checkpoint {path} is damaged or cut short, as its checksum tells: fetch or "
                "write it again."
            )
    try:
        with safetensors.safe_open(path, framework="pt", device="cpu") as file:
            state_dict = {name: file.get_tensor(name) for name in file.keys()}
            beside = json.loads((file.metadata() or {}).get(_BESIDE, "{}"))
    except (safetensors.SafetensorError, ValueError) as error:
        raise UsageError(f"The checkpoint {path} cannot be read: {error}") from error
    if not isinstance(beside, dict) or beside and (place is None or _DIGEST not in beside):
        raise UsageError(
            f"The checkpoint {path} cannot be read: its entry {_BESIDE} is not as it was written: "
            "write it again."
        )
    beside.pop(_DIGEST, None)
    return dict(beside, state_dict=state_dict)


def _with_digest(content: bytes, place: re.Match, digest: bytes) -> bytes:
    return content[: place.start(1)] + digest + content[place.end(1) :]


def _import_safetensors(path: str) -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise UsageError(
            f"{path} needs the package safetensors: pip install 'mmhcgnet[safetensors]'"
        ) from error
    return safetensors


# Names of checkpoints as MMEngine takes them


def _make_loader(kind: str, read: Callable[[str], dict]) -> Callable[[str, Any], dict]:
    def load(filename: str, map_location: Any = None) -> dict[str, Any]:
        return _without_programs(read(filename))

    load.__name__ = f"load_from_{kind}"  # MMEngine logs the end of it
    return load


def _without_programs(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Take out the texts of configs, which MMEngine would execute."""
    hub = checkpoint.get("message_hub")
    parts = [(checkpoint.get("meta"), "config"), (checkpoint.get("meta"), "cfg")]
    if isinstance(hub, dict):
        parts += [(hub.get("runtime_info"), "cfg"), (hub.get("resumed_keys"), "cfg")]
    for part, key in parts:
        if isinstance(part, dict):
            part.pop(key, None)
    return checkpoint


def _read_local(filename: str) -> dict[str, Any]:
    path = os.path.expanduser(filename)
    if not os.path.isfile(path):
        raise MissingFileError(f"The checkpoint {path} does not exist: name one that does.")
    return read_checkpoint(path)


def _read_url(url: str) -> dict[str, Any]:
    """Read a file through PyTorch's cache, where MMEngine's own loader looks for it, too."""
    path = os.path.join(torch.hub.get_dir(), "checkpoints", os.path.basename(urlparse(url).path))
    # Rank 0 first: the others on its machine then find the file there.
    if get_rank() > 0:
        barrier()
    fetched = not os.path.exists(path)
    if fetched:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path, progress=sys.stderr.isatty())
        except (OSError, HTTPException, ValueError) as error:
            raise UsageError(f"The checkpoint {url} cannot be fetched: {error}") from error
    try:
        checkpoint = read_checkpoint(path)
    except UsageError:
        if fetched:  # the next run fetches it again
            os.unlink(path)
        raise
    if get_rank() == 0:
        barrier()
    return checkpoint


def _read_torchvision(name: str) -> dict[str, Any]:
    return _read_url(_look_up(name, get_torchvision_models()))


def _read_openmmlab(name: str) -> dict[str, Any]:
    scheme, _, model = name.partition("://")
    model = get_deprecated_model_names().get(model, model)
    place = _look_up(f"{scheme}://{model}", get_external_models())
    if place.startswith(("http://", "https://")):
        return _read_url(place)
    return _read_local(os.path.join(_get_mmengine_home(), place))


def _read_mmcls(name: str) -> dict[str, Any]:
    return _process_mmcls_checkpoint(_read_url(_look_up(name, get_mmcls_models())))


def _look_up(name: str, places: dict[str, str]) -> str:
    scheme, _, model = name.partition("://")
    if model not in places:
        hint = did_you_mean(model, places)
        raise UsageError(f"MMEngine knows no checkpoint {scheme}://{model}{hint}: name another.")
    return places[model]


def _read_ceph(name: str) -> dict[str, Any]:
    with get_file_backend(name, backend_args=dict(backend="petrel")).get_local_path(name) as path:
        return read_checkpoint(path)


def _refuse_pavi(name: str) -> dict[str, Any]:
    raise UsageError(f"{name} is not read from there: fetch the file and name that.")


# MMEngine's prefixes, which are patterns; of several that fit, the last in the alphabet wins.
_SCHEMES: dict[str, tuple[tuple[str, ...], Callable[[str], dict]]] = dict(
    local=(("",), _read_local),
    http=(("http://", "https://"), _read_url),
    torchvision=(("modelzoo://", "torchvision://"), _read_torchvision),
    openmmlab=(("open-mmlab://", "openmmlab://"), _read_openmmlab),
    mmcls=(("mmcls://",), _read_mmcls),
    ceph=((r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), _read_ceph),
    pavi=(("pavi://",), _refuse_pavi),
)
