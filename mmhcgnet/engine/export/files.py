"""Writing an exported model, with what its user has to know inside the file."""

from __future__ import annotations

import contextlib
import inspect
import io
import json
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from mmhcgnet.checkpoints import write_atomically
from mmhcgnet.errors import UsageError
from mmhcgnet_runtime.engines import KEY

from .layout import align_channels
from .models import Exported

SIDES = ("images", "height", "width")
OPSET = 17  # of ONNX; from 16 on, RoiAlign knows aligned corners
SMALLEST_HALF = 256  # values, below which a tensor is not worth a conversion


def output_files(path: str, format: str) -> list[str]:
    """The files that a model is written to.

    Args:
        path: The one that is opened to run it.
        format: ``'onnx'`` or ``'openvino'``.

    Returns:
        Of OpenVINO the weights first: a reader who finds the graph finds its weights, too.

    Raises:
        UsageError: If the path has another suffix than the format.
    """
    suffix = dict(onnx=".onnx", openvino=".xml")[format]
    if not path.endswith(suffix):
        raise UsageError(
            f"The format {format} is written to a file ending in {suffix}, not {path}."
        )
    return [path] if format == "onnx" else [_with_suffix(path, ".bin"), path]


def write_model(
    exported: Exported,
    path: str,
    facts: dict[str, Any],
    format: str = "onnx",
    half: bool = False,
    check: Callable[[str], object] | None = None,
) -> int:
    """Write a model as ONNX, or as OpenVINO's pair of an ``.xml`` and a ``.bin``.

    If anything goes wrong, an existing file stays as it is.

    Args:
        exported: The model.
        path: The file, which ends in ``.onnx`` or ``.xml``; an existing one is overwritten.
        facts: What the file says about itself, besides the model's own facts; JSON's types.
        format: ``'onnx'`` or ``'openvino'``.
        half: Store weights in half precision, which halves the file. Engines compute as ever,
            unless one asks them for less.
        check: Called with the path of the file before it moves to its place; what it raises keeps
            the file from there.

    Returns:
        The number of operators in the ONNX graph.

    Raises:
        UsageError: If the package of the format is not installed, or the file cannot be written.
    """
    paths = output_files(path, format)
    for package in {"onnx", format}:
        if find_spec(package) is None:
            raise UsageError(f"Writing {format} needs the package {package}: pip install {package}")
    facts = dict(facts, task=exported.task, inputs=exported.inputs, outputs=list(exported.outputs))
    facts |= exported.facts
    text = json.dumps(facts, ensure_ascii=False)
    graph = _to_onnx(exported)
    align_channels(graph.graph, merges=format == "onnx")
    folder, name = os.path.split(os.path.abspath(path))
    try:
        os.makedirs(folder, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=folder) as scratch:
            draft = os.path.join(scratch, name)
            if format == "onnx":
                if half:
                    _halve(graph)
                graph.metadata_props.add(key=KEY, value=text)
                write_atomically(draft, graph.SerializeToString())
            else:
                _write_openvino(graph, draft, text, half)
            if check is not None:
                check(draft)
            for target in paths:
                os.replace(os.path.join(scratch, os.path.basename(target)), target)
    except OSError as error:
        raise UsageError(f"{path} cannot be written: {error.strerror or error}.") from error
    return len(graph.graph.node)


def _to_onnx(exported: Exported) -> Any:
    import onnx

    buffer = io.BytesIO()
    sides = dict(zip((0, 2, 3) if exported.is_raw else (0, 1, 2), SIDES, strict=True))
    axes = {name: sides if name == "images" else {0: "images"} for name in exported.inputs}
    options = {}
    if "dynamo" in inspect.signature(torch.onnx.export).parameters:
        options["dynamo"] = False  # the exporter that both old and new versions of PyTorch have
    with torch.no_grad(), _quiet():
        torch.onnx.export(
            exported.model,
            exported.example(),
            buffer,
            input_names=list(exported.inputs),
            output_names=list(exported.outputs),
            dynamic_axes=axes | exported.outputs,
            opset_version=OPSET,
            **options,
        )
    model = onnx.load_from_string(buffer.getvalue())
    _share_constants(model.graph)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the tracer's warnings of what it takes for constant, which here it may."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", category=torch.jit.TracerWarning)
        warnings.simplefilter("ignore", category=DeprecationWarning)
        warnings.simplefilter("ignore", category=UserWarning)
        yield


def _share_constants(graph: Any) -> None:
    """Turn operators that only give a constant into constants, and keep one of equal ones."""
    names: dict[bytes, str] = {}
    renamed: dict[str, str] = {}
    initial = {tensor.name for tensor in graph.initializer}
    kept = []
    for node in graph.node:
        if node.op_type == "Identity" and node.input[0] in initial:
            renamed[node.output[0]] = node.input[0]
        elif node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor, output = node.attribute[0].t, node.output[0]
            tensor.name = ""
            content = tensor.SerializeToString(deterministic=True)
            if content not in names:
                names[content] = tensor.name = output
                graph.initializer.append(tensor)
            renamed[output] = names[content]
        else:
            kept.append(node)
    for node in kept:
        for i, name in enumerate(node.input):
            node.input[i] = renamed.get(name, name)
    del graph.node[:]
    graph.node.extend(kept)


def _halve(model: Any) -> None:
    """Store large fp32 constants as fp16, each followed by a cast, which engines fold."""
    from onnx import TensorProto, helper, numpy_helper

    casts = []
    for tensor in model.graph.initializer:
        size = int(np.prod(tensor.dims))
        if tensor.data_type != TensorProto.FLOAT or size < SMALLEST_HALF:
            continue
        name, limit = tensor.name, np.finfo(np.float16).max
        values = numpy_helper.to_array(tensor).clip(-limit, limit).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
        casts.append(helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    for i, cast in enumerate(casts):
        model.graph.node.insert(i, cast)


def _write_openvino(graph: Any, path: str, text: str, half: bool) -> None:
    import openvino

    source = _with_suffix(path, ".onnx")
    with open(source, "wb") as file:
        file.write(graph.SerializeToString())
    model = openvino.Core().read_model(source)
    model.set_rt_info(text, KEY)
    openvino.save_model(model, path, compress_to_fp16=half)


def _with_suffix(path: str, suffix: str) -> str:
    return os.path.splitext(path)[0] + suffix
