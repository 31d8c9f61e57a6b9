"""What a checkpoint may ask for beside tensors, and what it gets instead.

A file of PyTorch is a pickle, which names functions and classes to call. PyTorch's restricted
reader calls those of its own list. All that MMEngine's and the authors' files name beside it gets
a class of this module, which takes data and does nothing; :func:`to_real` then makes values of what
it took.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from pickle import UnpicklingError
from types import BuiltinFunctionType, FunctionType
from typing import Any

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, nn

# How OneCycleLR anneals is a function that its state names: arithmetic on three numbers.
_ANNEALING = ("_annealing_cos", "_annealing_linear")


def refuse(name: str) -> UnpicklingError:
    """Refuse what a file asks for, in PyTorch's words."""
    return UnpicklingError(f"GLOBAL {name} was not an allowed global by default")


class _NumberType:
    """The type of a NumPy number: its kind, its size in bytes and its byte order."""

    def __init__(self, code: str, *_: Any) -> None:
        if not re.fullmatch("b1|[iu][1248]|f[248]", code):
            raise refuse("numpy.dtype")
        self.code, self.order = code, "="

    def __setstate__(self, state: tuple) -> None:
        if state[1] not in ("<", ">", "=", "|"):
            raise refuse("numpy.dtype")
        self.order = state[1]

    @property
    def dtype(self) -> np.dtype:
        """The type as NumPy's."""
        return np.dtype(self.order + self.code)


class _Number:
    """A NumPy number, which becomes one of Python's."""

    def __new__(cls, kind: _NumberType, data: bytes) -> bool | int | float:
        return np.frombuffer(data, kind.dtype, count=1)[0].item()


class _Array:
    """An array of numbers, rebuilt from its bytes."""

    def __new__(cls, *_: Any) -> _Array:
        return super().__new__(cls)

    def __setstate__(self, state: tuple) -> None:
        _, shape, kind, by_column, data = state
        order = "F" if by_column else "C"
        if np.prod(shape, dtype=object) * kind.dtype.itemsize != len(data):
            raise UnpicklingError("the bytes of an array do not fill its shape")
        # A copy in this machine's byte order, which may be written to.
        self.value = np.ndarray(shape, kind.dtype, data, order=order).astype(kind.code, order=order)


class _History:
    """The history of a logged number, by which a resumed run goes on smoothing."""

    def __new__(cls, *_: Any) -> _History:
        return super().__new__(cls)

    def __setstate__(self, state: dict) -> None:
        # Not its functions, by which MMEngine would replace its own.
        logged, counts = (to_real(state[key]) for key in ("_log_history", "_count_history"))
        self.value = HistoryBuffer(logged, counts, state["max_length"])


class _OneCycle:
    """Owns the functions by which this scheduler anneals."""


class _Attribute:
    """An attribute of one of the two classes above, of which only the functions are needed."""

    def __new__(cls, owner: Any, name: str) -> Any:
        if isinstance(owner, type) and issubclass(owner, _OneCycle) and name in _ANNEALING:
            return getattr(OneCycleParamScheduler, name)
        if isinstance(owner, type) and issubclass(owner, _History):
            return None
        raise refuse("builtins.getattr")


class _Bytes:
    """Bytes as pickle writes them; newer versions of PyTorch allow them by themselves."""

    def __new__(cls, text: str = "", encoding: str = "latin1") -> bytes:
        return text.encode("latin1")


# PyTorch knows them by their module and name.
STAND_INS = [
    type(name, (base,), dict(__module__=module))
    for module, name, base in (
        ("_codecs", "encode", _Bytes),
        ("builtins", "bytes", _Bytes),  # if there are none
        ("numpy", "dtype", _NumberType),
        ("numpy", "ndarray", _Array),
        ("numpy.core.multiarray", "scalar", _Number),  # NumPy 1
        ("numpy._core.multiarray", "scalar", _Number),  # NumPy 2
        ("numpy.core.multiarray", "_reconstruct", _Array),
        ("numpy._core.multiarray", "_reconstruct", _Array),
        ("mmengine.logging.history_buffer", "HistoryBuffer", _History),
        ("mmengine.optim.scheduler.param_scheduler", "OneCycleParamScheduler", _OneCycle),
        ("builtins", "getattr", _Attribute),
    )
]


# What a value may be just as it was read, by its exact type: a subclass could do anything.
_PLAIN = {
    *(type(None), bool, int, float, complex, str, bytes, bytearray),
    *(torch.Size, torch.dtype, torch.device),
}


def to_real(value: Any, seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Rebuild what was read out of new containers and tensors and the values of stand-ins.

    A pickle may give an object attributes, and one that is called like a method, as ``pop`` in an
    ``OrderedDict``, would be called in its place. No container or tensor of the file itself is
    handed on, so that none has any, but for the ``_metadata`` of a state dict.

    Args:
        value: What was read.
        seen: Objects and what stands for them, by ``id``: one may hold itself, or another many
            times.

    Raises:
        UnpicklingError: If there is anything else, such as a class or a function.
    """
    seen = {} if seen is None else seen
    kind = type(value)
    if kind in _PLAIN or any(value is function for function in _annealing()):
        return value
    if isinstance(value, _Array | _History):
        return value.value
    if id(value) not in seen:
        seen[id(value)] = value, _rebuild(value, kind, seen)
    return seen[id(value)][1]


def _rebuild(value: Any, kind: type, seen: dict[int, tuple[Any, Any]]) -> Any:
    if kind is Tensor:
        return Tensor.detach(value).requires_grad_(value.requires_grad)
    if kind is nn.Parameter:
        return nn.Parameter(Tensor.detach(value), value.requires_grad)
    if kind in (tuple, set, frozenset):
        return kind([to_real(child, seen) for child in value])
    if kind not in (list, dict, OrderedDict):
        named = value if isinstance(value, type | FunctionType | BuiltinFunctionType) else kind
        raise refuse(f"{named.__module__}.{named.__qualname__}")
    new = kind()
    seen[id(value)] = value, new  # before its content, which may hold it
    if kind is list:
        new += [to_real(child, seen) for child in value]
        return new
    for key, child in kind.items(value):
        new[to_real(key, seen)] = to_real(child, seen)
    metadata = to_real(vars(value).get("_metadata"), seen) if kind is OrderedDict else None
    if metadata is not None:
        if not isinstance(metadata, dict) or not all(
            isinstance(name, str) and isinstance(of_module, dict)
            for name, of_module in metadata.items()
        ):
            raise UnpicklingError("the metadata of the weights is not that of a state dict")
        new._metadata = metadata
    return new


def _annealing() -> list[Callable]:
    return [getattr(OneCycleParamScheduler, name) for name in _ANNEALING]
