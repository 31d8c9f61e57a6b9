"""Pickles read as data: the one table of what a checkpoint may name, and what it gets for it.

A pickle is a program. It names functions and classes, calls them, and sets the attributes of what
they return. Here it can name what stands in ``_TABLE``, call that and nothing else, and set no
attributes: all it can make is values of the types that a checkpoint is made of. The table belongs
to this module alone, so that nothing that other code allows or does meanwhile, in whatever thread,
changes what a file may do.
"""

from __future__ import annotations

import pickle
import re
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from collections import Counter, OrderedDict
from collections.abc import Callable
from pickle import UnpicklingError
from typing import Any, BinaryIO

import numpy as np
import torch
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import Tensor, nn

# How OneCycleLR anneals is a function that its state names: arithmetic on three numbers.
_ANNEALING = {
    name: getattr(OneCycleParamScheduler, name) for name in ("_annealing_cos", "_annealing_linear")
}
_CONTAINERS = (dict, OrderedDict, Counter, list, tuple, set, frozenset)
_LEAVES = (
    *(type(None), bool, int, float, complex, str, bytes, bytearray, range),
    *(torch.Size, torch.dtype, torch.device, Tensor, nn.Parameter, np.ndarray, HistoryBuffer),
)
# Whatever else there is, such as quantised numbers, sparse or nested tensors, is not for weights.
_STORAGES = dict(
    Float="float32", Double="float64", Half="float16", BFloat16="bfloat16", Long="int64",
    Int="int32", Short="int16", Char="int8", Byte="uint8", Bool="bool", ComplexFloat="complex64",
    ComplexDouble="complex128",
)  # fmt: skip
_DTYPES = [
    *_STORAGES.values(),
    *("uint16", "uint32", "uint64", "complex32"),
    *("float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"),
]
_NUMBERS = "b1|[iu][1248]|f[248]|c8|c16|[US][0-9]{1,9}"


class RefusedError(UnpicklingError):
    """A file asks for what is not in the table; ``name`` says what."""

    def __init__(self, name: str) -> None:
        super().__init__(f"it asks for {name}")
        self.name = name


class _Allowed:
    """Something that a file may name, and call if it is a function."""

    __slots__ = ("name", "call")

    def __init__(self, name: str, call: Callable | None = None) -> None:
        self.name, self.call = name, call


class Unpickler(pickle._Unpickler):
    """Reads one pickle of a checkpoint, of any protocol.

    Args:
        file: Where it begins.
        storages: Gives the numbers of a tensor for the id that the pickle has of them.

    Raises:
        RefusedError: While loading, if it asks for anything that weights do not need.
    """

    def __init__(self, file: BinaryIO, storages: Callable[[tuple], Any] | None = None) -> None:
        super().__init__(file, encoding="utf-8")
        self._storages = storages

    def load(self) -> Any:
        """Read it, and see to it that it holds nothing but data, of exact types."""
        value = super().load()
        pending, seen = [value], set()
        while pending:
            part = pending.pop()
            kind = type(part)
            if kind in _LEAVES or any(part is function for function in _ANNEALING.values()):
                continue
            if kind not in _CONTAINERS:
                raise RefusedError(part.name if kind is _Allowed else kind.__name__)
            if id(part) not in seen:
                seen.add(id(part))
                pending += part
                pending += part.values() if isinstance(part, dict) else ()
        return value

    def find_class(self, module: str, name: str) -> _Allowed | torch.dtype | Callable:
        """Look up what the file names, in the table alone."""
        # Until protocol 3, Python writes the names of Python 2.
        module, name = NAME_MAPPING.get((module, name), (IMPORT_MAPPING.get(module, module), name))
        key = f"{module.replace('numpy._core', 'numpy.core')}.{name}"
        if key not in _TABLE:
            raise RefusedError(f"{module}.{name}")
        return _TABLE[key]

    def persistent_load(self, pid: Any) -> Any:
        """Find the numbers of a tensor."""
        if self._storages is None or type(pid) is not tuple or pid[0] != "storage":
            raise UnpicklingError("it refers to something outside")
        return self._storages(pid[1:])

    def _load_call(self) -> None:
        args = self.stack.pop()
        function = self.stack.pop()
        if type(function) is not _Allowed or function.call is None or type(args) is not tuple:
            raise RefusedError(f"a call of {getattr(function, 'name', type(function).__name__)}")
        self.append(function.call(*args))

    def _load_state(self) -> None:
        state = self.stack.pop()
        part = self.stack[-1]
        for kind, set_state in _STATES.items():
            if isinstance(part, kind):
                return set_state(part, state)
        raise RefusedError(f"attributes of {getattr(part, 'name', type(part).__name__)}")

    dispatch = {
        code: load
        for code, load in pickle._Unpickler.dispatch.items()
        if bytes([code]) not in (pickle.INST, pickle.OBJ, pickle.NEWOBJ_EX)
        and bytes([code]) not in (pickle.EXT1, pickle.EXT2, pickle.EXT4)
    } | {
        pickle.REDUCE[0]: _load_call,
        pickle.NEWOBJ[0]: _load_call,
        pickle.BUILD[0]: _load_state,
    }


# What files name: tensors


def _tensor(
    storage: Tensor | None, offset: int, size: tuple, stride: tuple, requires_grad: bool = False,
    hooks: Any = None, extra: Any = None, *_: Any,
) -> Tensor | None:  # fmt: skip
    if storage is None:  # an outline has no tensors
        return None
    if isinstance(extra, torch.dtype):  # of a type without storages, as of 8 bits
        storage = storage.view(extra)
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    if min(offset, *size, *stride, 0) < 0 or (0 not in size and last >= len(storage)):
        raise UnpicklingError("a tensor reaches beyond its numbers")
    tensor = torch.empty(0, dtype=storage.dtype)
    tensor.set_(storage.untyped_storage(), offset, torch.Size(size), tuple(stride))
    return tensor.requires_grad_(requires_grad is True and tensor.is_floating_point())


def _parameter(data: Tensor | None, requires_grad: bool = True, *_: Any) -> nn.Parameter | None:
    if data is None:
        return None
    return nn.Parameter(data.detach(), requires_grad is True and data.is_floating_point())


def _rebuilt(function: Any, kind: Any, args: tuple, state: Any) -> Tensor | None:
    """A tensor of a subclass or with attributes: a plain one, without."""
    if type(function) is not _Allowed or function.call not in (_tensor, _parameter):
        raise RefusedError(getattr(function, "name", "a function"))
    return function.call(*args)


# NumPy's numbers, which become Python's, and arrays of them


def _dtype(code: Any, *_: Any) -> np.dtype:
    if not isinstance(code, str) or not re.fullmatch(_NUMBERS, code):
        raise RefusedError("numpy.dtype")
    return np.dtype(code, copy=True)


def _set_byte_order(dtype: np.dtype, state: tuple) -> None:
    if type(state) is not tuple or state[1] not in ("<", ">", "=", "|"):
        raise RefusedError("numpy.dtype")
    dtype.__setstate__(dtype.newbyteorder(state[1]).__reduce__()[2])


def _number(dtype: np.dtype, data: bytes) -> bool | int | float | complex | str | bytes:
    return np.ndarray((), dtype, data).item()


def _set_array(array: np.ndarray, state: tuple) -> None:
    version, shape, dtype, by_column, data = state
    if not isinstance(dtype, np.dtype) or type(data) is not bytes:
        raise RefusedError("numpy.ndarray")
    array.__setstate__((version, shape, dtype, by_column, data))


def _array(data: bytes, dtype: np.dtype, shape: tuple, order: str) -> np.ndarray:
    return np.frombuffer(data, dtype).reshape(shape, order=order).copy(order)


# MMEngine's log, and Python's own


def _set_history(history: HistoryBuffer, state: dict) -> None:
    # Not its functions, by which MMEngine would replace its own.
    values = [state[key] for key in ("_log_history", "_count_history", "max_length")]
    if [type(value) for value in values] != [np.ndarray, np.ndarray, int]:
        raise UnpicklingError("the history of the log is not one of numbers")
    history.__init__(*values)


def _set_metadata(weights: OrderedDict, state: dict) -> None:
    """The versions of the modules' layouts: the one attribute that a state dict has."""
    metadata = state.get("_metadata", {})
    versions = {name: of_module.get("version") for name, of_module in metadata.items()}
    if not all(isinstance(name, str) for name in versions) or not all(
        isinstance(version, int | None) for version in versions.values()
    ):
        raise UnpicklingError("the metadata of the weights is not that of a state dict")
    if versions:
        weights._metadata = OrderedDict((name, dict(version=v)) for name, v in versions.items())


def _attribute(owner: Any, name: str) -> Callable | None:
    if owner is _TABLE[_SCHEDULER] and name in _ANNEALING:
        return _ANNEALING[name]
    if owner is _TABLE[_HISTORY]:
        return None  # one of its functions
    raise RefusedError("builtins.getattr")


_STATES = {
    OrderedDict: _set_metadata,
    HistoryBuffer: _set_history,
    np.ndarray: _set_array,
    np.dtype: _set_byte_order,
}
_HISTORY = "mmengine.logging.history_buffer.HistoryBuffer"
_SCHEDULER = "mmengine.optim.scheduler.param_scheduler.OneCycleParamScheduler"
_CALLS: dict[str, Callable | None] = {
    **{f"builtins.{kind.__name__}": kind for kind in (set, frozenset, complex, range)},
    **{f"builtins.{kind.__name__}": None for kind in (dict, list, tuple, str, int, float, bool)},
    "builtins.bytes": lambda: b"",
    "builtins.bytearray": lambda data=b"", *_: bytearray(
        data.encode("latin1") if isinstance(data, str) else memoryview(data)
    ),
    "builtins.getattr": _attribute,
    "_codecs.encode": lambda text, *_: text.encode("latin1"),  # bytes before protocol 3
    "collections.OrderedDict": OrderedDict,
    "collections.Counter": Counter,
    "collections.defaultdict": lambda *_: {},
    "mmengine.config.config.ConfigDict": dict,
    "torch.Size": lambda sizes: torch.Size(map(int, sizes)),
    "torch.device": torch.device,
    "torch.Tensor": None,
    "torch._tensor.Tensor": None,
    "torch.nn.parameter.Parameter": None,
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch._utils._rebuild_parameter_with_state": _parameter,
    "torch._tensor._rebuild_from_type_v2": _rebuilt,
    "numpy.dtype": _dtype,
    "numpy.ndarray": None,
    "numpy.core.multiarray.scalar": _number,
    "numpy.core.multiarray._reconstruct": lambda *_: np.ndarray(0),
    "numpy.core.numeric._frombuffer": _array,
    _HISTORY: HistoryBuffer,
    **{f"{_HISTORY}.{name}": None for name in HistoryBuffer()._statistics_methods},
    _SCHEDULER: None,
}
_TABLE: dict[str, Any] = {
    **{name: _Allowed(name, call) for name, call in _CALLS.items()},
    **{f"{_SCHEDULER}.{name}": function for name, function in _ANNEALING.items()},
    **{f"torch.{name}": getattr(torch, name) for name in _DTYPES if hasattr(torch, name)},
    **{f"torch.{name}Storage": getattr(torch, dtype) for name, dtype in _STORAGES.items()},
    "torch.storage.UntypedStorage": torch.uint8,
}
