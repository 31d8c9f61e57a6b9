"""What a checkpoint may ask for beside tensors, and what it gets instead.

A file of PyTorch is a pickle, which names functions and classes to call. PyTorch's restricted
reader calls those of its own list. All that MMEngine's and the authors' files name beside it gets
a class of this module, which takes data and does nothing; :func:`to_real` then makes values of what
it took.
"""

from __future__ import annotations

import re
from pickle import UnpicklingError
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler

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


def to_real(value: Any, seen: dict[int, tuple[Any, Any]] | None = None) -> Any:
    """Replace the stand-ins in containers, in place where these can change.

    Args:
        value: What was read.
        seen: Containers and what stands for them now, by ``id``: one may hold itself, or another
            many times.
    """
    seen = {} if seen is None else seen
    if isinstance(value, _Array | _History):
        return value.value
    if id(value) in seen:
        return seen[id(value)][1]
    if isinstance(value, dict):
        seen[id(value)] = value, value
        for key, child in list(value.items()):
            value[key] = to_real(child, seen)
    elif isinstance(value, list):
        seen[id(value)] = value, value
        value[:] = [to_real(child, seen) for child in value]
    elif type(value) is tuple:
        seen[id(value)] = value, tuple(to_real(child, seen) for child in value)
        return seen[id(value)][1]
    return value
