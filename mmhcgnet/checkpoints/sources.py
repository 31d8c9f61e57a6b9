"""Checkpoints by all the names that MMEngine takes: paths, URLs, and schemes such as ``mmcls://``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
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

from mmhcgnet.errors import UsageError, did_you_mean

from .checkpoint import Checkpoint

# What was opened before MMEngine asks for it.
_AHEAD: dict[str, Checkpoint] = {}


def use_safe_loader() -> None:
    """Let MMEngine read checkpoints by :class:`Checkpoint`, wherever a path or URL names one.

    MMEngine's own loader runs what a file asks for when PyTorch's restricted reader refuses it.
    After this call that of the whole process, which MMDetection's ``init_detector`` and
    MMPretrain's ``get_model`` use as well as ``load_from``, resuming and
    ``init_cfg=dict(type="Pretrained")``,

    - takes the same names as before, and files of safetensors,
    - has all tensors on the CPU; MMEngine moves them to where they belong,
    - leaves out the text of the config that MMEngine saves in a checkpoint, as resuming and the
      inferencers would execute it: these need the config by another way.

    Raises, when it is used, what :meth:`Checkpoint.open` does, and a :class:`UsageError` for what
    cannot be fetched.
    """
    for kind, (prefixes, read) in _SCHEMES.items():
        CheckpointLoader.register_scheme(prefixes, _make_loader(kind, read), force=True)


def read_safetensors() -> None:
    """Let MMEngine read local files of safetensors, which it does not know, as ours ship."""
    load = _make_loader("safetensors", Checkpoint.open)
    CheckpointLoader.register_scheme(r"(?!.*://).*\.safetensors$", load, force=True)


def open_ahead(path: str) -> Checkpoint:
    """Open a local file that MMEngine is about to load, which then is not read again.

    Args:
        path: The file; as often as it is asked for before it is loaded, it is read once.

    Raises:
        MissingFileError: If it does not exist.
        UsageError: If it cannot be read, or asks for more than data.
    """
    return _AHEAD.get(_place(path)) or hand_over(Checkpoint.open(path))


def hand_over(checkpoint: Checkpoint) -> Checkpoint:
    """Let MMEngine take an opened checkpoint when it asks for that file, the next time."""
    _AHEAD[_place(checkpoint.path)] = checkpoint
    return checkpoint


def _place(path: str) -> str:
    return os.path.abspath(os.path.expanduser(path))


def _make_loader(kind: str, read: Callable[[str], Checkpoint]) -> Callable[[str, Any], dict]:
    def load(filename: str, map_location: Any = None) -> dict[str, Any]:
        return read(filename).content

    load.__name__ = f"load_from_{kind}"  # MMEngine logs the end of it
    return load


def _read_local(path: str) -> Checkpoint:
    return _AHEAD.pop(_place(path), None) or Checkpoint.open(path)


def _read_url(url: str) -> Checkpoint:
    """Read a file through PyTorch's cache, where MMEngine's own loader looks for it, too."""
    try:
        name = os.path.basename(urlparse(url).path)
    except ValueError as error:
        raise UsageError(f"The checkpoint {url} cannot be fetched: {error}.") from error
    path = os.path.join(torch.hub.get_dir(), "checkpoints", name)
    # Rank 0 first: the others on its machine then find the file there.
    if get_rank() > 0:
        barrier()
    fetched = not os.path.exists(path)
    if fetched:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        try:
            torch.hub.download_url_to_file(url, path, progress=sys.stderr.isatty())
        except (OSError, HTTPException, ValueError) as error:
            raise UsageError(f"The checkpoint {url} cannot be fetched: {error}.") from error
    try:
        checkpoint = Checkpoint.open(path)
    except UsageError:
        if fetched:  # the next run fetches it again
            os.unlink(path)
        raise
    if get_rank() == 0:
        barrier()
    return checkpoint


def _read_torchvision(name: str) -> Checkpoint:
    return _read_url(_look_up(name, get_torchvision_models()))


def _read_openmmlab(name: str) -> Checkpoint:
    scheme, _, model = name.partition("://")
    model = get_deprecated_model_names().get(model, model)
    place = _look_up(f"{scheme}://{model}", get_external_models())
    if place.startswith(("http://", "https://")):
        return _read_url(place)
    return _read_local(os.path.join(_get_mmengine_home(), place))


def _read_mmcls(name: str) -> Checkpoint:
    checkpoint = _read_url(_look_up(name, get_mmcls_models()))
    return Checkpoint(_process_mmcls_checkpoint(checkpoint.content), name)


def _look_up(name: str, places: dict[str, str]) -> str:
    scheme, _, model = name.partition("://")
    if model not in places:
        hint = did_you_mean(model, places)
        raise UsageError(f"MMEngine knows no checkpoint {scheme}://{model}{hint}: name another.")
    return places[model]


def _read_ceph(name: str) -> Checkpoint:
    try:
        backend = get_file_backend(name, backend_args=dict(backend="petrel"))
    except ImportError as error:
        raise UsageError(f"The checkpoint {name} cannot be fetched: {error}") from error
    with backend.get_local_path(name) as path:
        return Checkpoint.open(path)


def _refuse_pavi(name: str) -> Checkpoint:
    raise UsageError(f"{name} cannot be read from there: fetch the file and name that.")


# MMEngine's prefixes, which are patterns; of several that fit, the last in the alphabet wins.
_SCHEMES: dict[str, tuple[tuple[str, ...], Callable[[str], Checkpoint]]] = dict(
    local=(("",), _read_local),
    http=(("http://", "https://"), _read_url),
    torchvision=(("modelzoo://", "torchvision://"), _read_torchvision),
    openmmlab=(("open-mmlab://", "openmmlab://"), _read_openmmlab),
    mmcls=(("mmcls://",), _read_mmcls),
    ceph=((r"(\S+\:)?s3://", r"(\S+\:)?petrel://"), _read_ceph),
    pavi=(("pavi://",), _refuse_pavi),
)
