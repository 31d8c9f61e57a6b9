"""Whole blocks of channels: what a graph computes stays, and only what gains by it changes."""

import copy

import numpy as np
import pytest
from helpers.exported import writes_onnx

from mmhcgnet.engine.export.layout import align_channels

RNG = np.random.default_rng(0)


def graph_of(*convs, shared=False):
    """Convolutions with ReLUs between them, each ``(C_in, C_out, groups)``, of 3x3 with bias."""
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, name = [], [], "x"
    for i, (wide, out, groups) in enumerate(convs):
        if i:
            nodes.append(helper.make_node("Relu", [name], [f"r{i}"]))
            name = f"r{i}"
        w, b = ("w0", "b0") if shared else (f"w{i}", f"b{i}")
        if not (shared and i):
            weight = RNG.normal(size=(out, wide // groups, 3, 3)).astype(np.float32)
            bias = RNG.normal(size=out).astype(np.float32)
            constants += [numpy_helper.from_array(weight, w), numpy_helper.from_array(bias, b)]
        nodes.append(helper.make_node("Conv", [name, w, b], [f"y{i}"], pads=[1] * 4, group=groups))
        name = f"y{i}"
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", convs[0][0], "h", "w"])
    y = helper.make_tensor_value_info(name, TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "graph", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def run(model):
    ort = pytest.importorskip("onnxruntime", reason="ONNX Runtime is not installed")
    (x,) = model.graph.input
    wide = x.type.tensor_type.shape.dim[1].dim_value
    inputs = np.random.default_rng(1).normal(size=(2, wide, 9, 7)).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": inputs})[0]


def shapes(model):
    """The weights' shapes and groups of all convolutions."""
    constants = {each.name: tuple(each.dims) for each in model.graph.initializer}
    convs = [node for node in model.graph.node if node.op_type == "Conv"]
    groups = [next(a.i for a in conv.attribute if a.name == "group") for conv in convs]
    return [(*constants[conv.input[1]][:2], n) for conv, n in zip(convs, groups, strict=True)]


def aligned(*convs, merges=True, **options):
    writes_onnx()
    model = graph_of(*convs, **options)
    changed = copy.deepcopy(model)
    align_channels(changed.graph, merges)
    got, wanted = run(changed), run(model)
    assert got.shape == wanted.shape
    assert np.abs(got - wanted).max() <= 1e-5 * np.abs(wanted).max()
    return shapes(changed)


@pytest.mark.parametrize(
    "conv, wanted",
    [
        ((128, 32, 4), (32, 64, 2)),
        ((192, 48, 4), (48, 192, 1)),
        ((128, 128, 32), (128, 16, 8)),
        ((256, 64, 4), (64, 64, 4)),  # whole blocks
        ((32, 32, 32), (32, 1, 32)),  # depthwise
        ((64, 64, 16), (64, 16, 4)),
        ((60, 20, 4), (20, 15, 4)),  # no number of groups is whole blocks
        ((64, 64, 32), (64, 2, 32)),  # eight times the work
    ],
)
def test_groups_become_whole_blocks(conv, wanted):
    assert aligned(conv) == [wanted]


def test_maps_between_convolutions_become_whole_blocks():
    assert aligned((5, 18, 1), (18, 7, 1)) == [(32, 5, 1), (7, 32, 1)]
    assert aligned((5, 16, 1), (16, 7, 1)) == [(16, 5, 1), (7, 16, 1)]
    assert aligned((5, 18, 1), (18, 18, 18)) == [(18, 5, 1), (18, 1, 18)]
    assert aligned((18, 18, 2), (18, 7, 1)) == [(18, 9, 2), (7, 18, 1)]


def test_groups_stay_where_they_are_to():
    assert aligned((128, 32, 4), merges=False) == [(32, 32, 4)]
    assert aligned((5, 18, 1), (18, 7, 1), merges=False) == [(32, 5, 1), (7, 32, 1)]


def test_a_constant_that_others_read_stays():
    assert aligned((128, 128, 32), (128, 128, 32), shared=True) == [(128, 16, 8)] * 2
    assert aligned((18, 18, 1), (18, 18, 1), shared=True) == [(32, 18, 1), (18, 32, 1)]


def test_a_map_with_another_reader_stays():
    writes_onnx()
    from onnx import helper

    for name in ("y0", "r1"):
        model = graph_of((5, 18, 1), (18, 7, 1))
        model.graph.output.append(helper.make_empty_tensor_value_info(name))
        align_channels(model.graph)
        assert shapes(model) == [(18, 5, 1), (7, 18, 1)]


def test_what_an_inner_graph_reads_stays():
    writes_onnx()
    from onnx import TensorProto, helper, numpy_helper

    model = graph_of((5, 18, 1), (18, 7, 1))
    inner = helper.make_graph(
        [helper.make_node("Add", ["r1", "kept"], ["sum"])],
        "inner",
        [],
        [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)],
    )
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "kept"))
    node = helper.make_node("If", ["condition"], ["z"], then_branch=inner, else_branch=inner)
    model.graph.node.append(node)
    align_channels(model.graph)
    assert shapes(model) == [(18, 5, 1), (7, 18, 1)]
    assert "kept" in [each.name for each in model.graph.initializer]
