"""What a pickle can make, and what it cannot, whatever it is made of."""

import collections
import io
import pickle
import struct
from collections import Counter, OrderedDict, defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import ConfigDict
from mmengine.logging import HistoryBuffer
from mmengine.optim.scheduler.param_scheduler import OneCycleParamScheduler
from torch import nn

from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.checkpoints.unpickling import RefusedError, Unpickler, _tensor
from mmhcgnet.errors import UsageError


def read(value, tmp_path, **options):
    torch.save(value, tmp_path / "a.pth", **options)
    return read_checkpoint(str(tmp_path / "a.pth"))


PLAIN = dict(
    none=None, numbers=[True, 3, 10**30, 2.5, 1j], strings=["é", "", "\ud800"],
    data=[b"a\xff", b""], function=OneCycleParamScheduler._annealing_cos,
    more=[bytearray(b"xy"), bytearray(), {1, 2}, frozenset([3]), (), (1, (2,)), range(2, 9, 3)],
    torch=[torch.Size([1, 2]), torch.float8_e5m2, torch.device("cuda:1")],
    counter=Counter("aab"), ordered=OrderedDict(b=1, a=2),
)  # fmt: skip
FORMATS = [
    *(dict(pickle_protocol=protocol) for protocol in (2, 3, 4, 5)),
    *(dict(pickle_protocol=p, _use_new_zipfile_serialization=False) for p in (2, 4)),
]


@pytest.mark.parametrize("options", FORMATS, ids=str)
def test_data_of_every_protocol_is_read(tmp_path, options):
    other = dict(
        likewise=[ConfigDict(a=dict(b=[1])), defaultdict(list, a=[1]), np.str_("é"), np.str_("")],
        numbers=[np.float32(0.5), np.bool_(True), np.complex64(2j)],
        arrays=[np.arange(6.0).reshape(2, 3).T, np.array(["a", "bcd"]), np.zeros((0, 2))],
        history=HistoryBuffer([1.0, 2.0], [1, 3]),
    )
    content = read(dict(plain=PLAIN, **other), tmp_path, **options)
    assert content["plain"] == PLAIN
    kinds = [type(value) for value in PLAIN.values()]
    assert [type(value) for value in content["plain"].values()] == kinds
    assert content["likewise"] == [dict(a=dict(b=[1])), dict(a=[1]), "é", ""]
    assert [type(value) for value in content["likewise"]] == [dict, dict, str, str]
    assert content["numbers"] == [0.5, True, 2j]
    for one, array in zip(content["arrays"], other["arrays"], strict=True):
        assert np.array_equal(one, array) and one.dtype == array.dtype and one.flags.writeable
    assert [list(part) for part in content["history"].data] == [[1.0, 2.0], [1, 3]]


@pytest.mark.parametrize("options", [FORMATS[0], FORMATS[-1]], ids=str)
def test_tensors_are_read(tmp_path, options):
    base = torch.arange(12.0)
    attributed = nn.Parameter(torch.ones(2))
    attributed.isfinite = torch.Size
    tensors = dict(
        plain=base.view(3, 4), part=base[2:5], strided=base[::2], scalar=torch.tensor(7),
        empty=torch.zeros(0, 3), flags=torch.tensor([True, False]), complex=torch.ones(2) * 1j,
        half=torch.ones(2).bfloat16(), eight=torch.ones(2).to(torch.float8_e4m3fn),
        frozen=nn.Parameter(torch.ones(2), requires_grad=False), attributed=attributed,
        learned=torch.ones(2, requires_grad=True),
    )  # fmt: skip
    found = read(tensors, tmp_path, **options)
    for name, tensor in tensors.items():
        assert (
            type(found[name]) is type(tensor) and found[name].requires_grad == tensor.requires_grad
        )
        assert found[name].dtype == tensor.dtype and found[name].stride() == tensor.stride()
        assert torch.equal(found[name].float(), tensor.float()) or tensor.is_complex(), name
    assert vars(found["attributed"]) == {}
    found["plain"][0, 2] = 99  # both show the same memory, as they were saved
    assert found["part"][0] == 99


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("make", "asks"),
    [
        (lambda: torch.eye(3).to_sparse(), "_rebuild_sparse_tensor"),
        (lambda: torch.eye(3).to_sparse_csr(), "_rebuild_sparse_tensor"),
        (lambda: torch.ones(3, device="meta"), "_rebuild_meta_tensor_no_storage"),
        (lambda: torch.quantize_per_tensor(torch.ones(3), 1.0, 0, torch.qint8), "_rebuild_qtensor"),
        (lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]), "nested"),
        (lambda: torch.Tensor, "torch.Tensor"),
        (lambda: torch._utils._rebuild_tensor_v2, "_rebuild_tensor_v2"),
        (lambda: {np.ndarray: 1}, "numpy.ndarray"),
        (lambda: [({"a": (HistoryBuffer,)},)], "HistoryBuffer"),
        (lambda: nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
        (lambda: datetime(2026, 1, 1), "datetime.datetime"),
        (lambda: Path("a"), "pathlib"),
        (lambda: defaultdict(lambda: 3, a=1), None),
    ],
)
def test_what_weights_do_not_need_is_refused_by_its_name(tmp_path, make, asks):
    if asks is None:
        value, asks = defaultdict(print, a=1), "builtins.print"
    else:
        value = make()
    with pytest.raises(UsageError, match=f"is refused .* it asks for .*{asks}"):
        read(dict(a=value), tmp_path)


def test_fp4_is_refused(tmp_path):
    if not hasattr(torch, "float4_e2m1fn_x2"):
        pytest.skip("this version of PyTorch has no such type")
    tensor = torch.zeros(4, dtype=torch.uint8).view(torch.float4_e2m1fn_x2)
    with pytest.raises(UsageError, match="it asks for torch.float4_e2m1fn_x2"):
        read(dict(a=tensor), tmp_path)


# Programs written by hand: what no pickler writes


def program(*parts):
    return pickle.PROTO + b"\x02" + b"".join(parts) + pickle.STOP


def named(module, name):
    return pickle.GLOBAL + f"{module}\n{name}\n".encode()


def text(value):
    return pickle.BINUNICODE + struct.pack("<I", len(value)) + value.encode()


EMPTY, DICT = pickle.EMPTY_TUPLE, named("collections", "OrderedDict") + b")R"
ARRAY = named("numpy", "ndarray")
HISTORY = named("mmengine.logging.history_buffer", "HistoryBuffer")
SCHEDULER = named("mmengine.optim.scheduler.param_scheduler", "OneCycleParamScheduler")
HIDING = b"}" + text("pop") + ARRAY + b"s"  # a state {"pop": numpy.ndarray}
REBUILD = named("torch._tensor", "_rebuild_from_type_v2")
TENSOR = named("torch._utils", "_rebuild_tensor_v2")
GETATTR = named("builtins", "getattr")
ANNEALING = GETATTR + SCHEDULER + text("_annealing_cos") + b"\x86R"


def test_of_the_attributes_of_a_dict_only_the_checked_versions_are_kept():
    found = Unpickler(io.BytesIO(program(DICT, HIDING, b"b"))).load()
    assert type(found) is OrderedDict and vars(found) == {}
    versions = b"}" + text("a") + b"}" + text("version") + b"K\x02s" + text("x") + ARRAY + b"ss"
    state = b"}" + text("_metadata") + versions + b"s"
    found = Unpickler(io.BytesIO(program(DICT, state, b"b"))).load()
    assert vars(found) == dict(_metadata=OrderedDict(a=dict(version=2)))


@pytest.mark.parametrize(
    "place",
    [(0, (1000,), (1,)), (-1, (1,), (1,)), (0, (-1,), (1,)), (4, (1,), (1,)), (0, (3,), (2,)),
     (3, (2,), (-1,)), (0, (2, 2), (1,))],
)  # fmt: skip
@pytest.mark.parametrize("numbers", [0, 4])
def test_a_tensor_stays_within_its_numbers(numbers, place):
    with pytest.raises((pickle.UnpicklingError, ValueError)):
        _tensor(torch.ones(numbers), *place)


ATTACKS = {
    "attributes of a class": (ARRAY, HIDING, b"b"),
    "slots of a class": (ARRAY, b"N", HIDING, b"\x86b"),
    "attributes of a function": (ANNEALING, HIDING, b"b"),
    "attributes of a plain dict": (b"}", HIDING, b"b"),
    "attributes of a list": (b"]", HIDING, b"b"),
    "a call of a value": (DICT, EMPTY, b"R"),
    "a call of what getattr gives": (ANNEALING, EMPTY, b"R"),
    "a call of a class": (ARRAY, b"K\x05\x85R"),
    "a new object of a class": (ARRAY, EMPTY, b"\x81"),
    "arguments that are no tuple": (named("collections", "OrderedDict"), b"]R"),
    "getattr of a dict": (GETATTR, DICT, text("__class__"), b"\x86R"),
    "getattr of the annealing": (GETATTR, ANNEALING, text("__globals__"), b"\x86R"),
    "getattr of another function": (GETATTR, SCHEDULER, text("__init__"), b"\x86R"),
    "another function in a rebuild": (REBUILD, b"(", GETATTR, ARRAY, EMPTY, b"NtR"),
    "a class as the value": (ARRAY,),
    "a function as the value": (TENSOR,),
    "os.system": (named("os", "system"), text("true"), b"\x85R"),
    "a dotted name": (named("builtins", "getattr.__self__"),),
    "a module of the table": (named("torch", "_utils"),),
    "a private name of the table": (named("torch.serialization", "load"),),
    "an instance": (b"(", pickle.INST, b"collections\nOrderedDict\n"),
    "an object": (b"(", named("collections", "OrderedDict"), pickle.OBJ),
    "an extension": (pickle.EXT1, b"\x01"),
    "a persistent id": (text("storage"), b"\x85", pickle.BINPERSID),
    "a persistent id in text": (pickle.PERSID, b"storage\n"),
    "a bytearray by its length": (named("builtins", "bytearray"), b"J\xff\xff\xff\x7f\x85R"),
    "an array of objects": (named("numpy", "dtype"), text("O"), b"\x85R"),
    "a history of objects": (
        HISTORY, b")\x81}(", text("_log_history"), b"](", DICT, b"e", text("_count_history"), b"]",
        text("max_length"), b"K\x05ub",
    ),
    "metadata of a text": (DICT, b"}", text("_metadata"), text("a"), b"sb"),
    "metadata of texts": (DICT, b"}", text("_metadata"), b"}", text("a"), text("b"), b"ssb"),
    "a version that is text": (
        DICT, b"}", text("_metadata"), b"}", text("a"), b"}", text("version"), text("b"), b"sssb"
    ),
}  # fmt: skip

# What refuses these, where it is not the table of what weights need.
OTHERWISE = {
    "an instance": (KeyError, str(pickle.INST[0])),  # no such instruction
    "an object": (KeyError, str(pickle.OBJ[0])),
    "an extension": (KeyError, str(pickle.EXT1[0])),
    "a persistent id": (pickle.UnpicklingError, "refers to something outside"),
    "a persistent id in text": (pickle.UnpicklingError, "refers to something outside"),
    "a bytearray by its length": (TypeError, "bytes-like object"),
    "a history of objects": (pickle.UnpicklingError, "not one of numbers"),
    "metadata of a text": (AttributeError, "'items'"),
    "metadata of texts": (AttributeError, "'get'"),
    "a version that is text": (pickle.UnpicklingError, "not that of a state dict"),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_program_gets_further_than_the_table(attack):
    before = dict(vars(OneCycleParamScheduler)), dict(vars(collections)), dict(vars(HistoryBuffer))
    kind, told = OTHERWISE.get(attack, (RefusedError, "^it asks for "))
    with pytest.raises(kind, match=told):
        Unpickler(io.BytesIO(program(*ATTACKS[attack]))).load()
    assert before == (
        dict(vars(OneCycleParamScheduler)), dict(vars(collections)), dict(vars(HistoryBuffer))
    )  # fmt: skip
    assert not vars(OneCycleParamScheduler._annealing_cos)
