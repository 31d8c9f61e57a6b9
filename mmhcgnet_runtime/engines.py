"""Files of ONNX and OpenVINO, and the engines that run them."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

KEY = "mmhcgnet"  # of the JSON in a file
ENGINES = ("onnxruntime", "openvino")
MOST_SHAPES = 4  # for which a model stays compiled at once


class RuntimeFileError(ValueError):
    """A file that cannot be run here; the message is one sentence that says why."""


class Engine(Protocol):
    """An engine with a model in it.

    Attributes:
        facts (dict): What the file says about itself.
    """

    facts: dict[str, Any]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs, by name."""
        ...


def open_engine(
    path: str,
    engine: str | None = None,
    threads: int | None = None,
    shapes: dict[str, tuple[int, ...]] | None = None,
    each_shape: bool = False,
    providers: Sequence[Any] | None = None,
    device: str | None = None,
) -> Engine:
    """Open a model.

    Args:
        path: A file that ends in ``.onnx``, or in ``.xml`` with the ``.bin`` next to it.
        engine: ``'onnxruntime'`` or ``'openvino'``; by default the first of them that is installed
            and reads the file.
        threads: Threads to use; by default the engine decides.
        shapes: Shapes of the inputs, by name, where they are always the same. OpenVINO is quicker
            then, and takes no others; ONNX Runtime makes no difference.
        each_shape: Compile the model again for every shape that comes, and keep the last four: for
            OpenVINO, where a few shapes come again and again. ONNX Runtime makes no difference.
        providers: ONNX Runtime's execution providers, the first choice first, by name or with their
            options as ``(name, dict)``; by default its CPU's.
        device: OpenVINO's device, as ``'GPU'`` or ``'AUTO'``; by default ``'CPU'``.

    Raises:
        FileNotFoundError: If the file does not exist.
        RuntimeFileError: If it is not an exported model, or no engine for it is installed, or
            the engine lacks a provider or the device.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(f"The model {path} does not exist.")
    if not path.endswith((".onnx", ".xml")):
        raise RuntimeFileError(f"A model ends in .onnx or .xml, and {path} does not.")
    if engine not in (None, *ENGINES):
        raise RuntimeFileError(f"There is no engine {engine!r}: choose onnxruntime or openvino.")
    if providers and (device or engine == "openvino") or (device and engine == "onnxruntime"):
        raise RuntimeFileError("ONNX Runtime has providers, and OpenVINO a device: choose one.")
    engine = engine or ("onnxruntime" if providers else "openvino" if device else None)
    candidates = [engine] if engine else [name for name in ENGINES if find_spec(name)]
    if path.endswith(".xml"):
        candidates = [name for name in candidates if name == "openvino"]
    if not candidates or find_spec(candidates[0]) is None:
        wanted = engine or ("openvino" if path.endswith(".xml") else "onnxruntime")
        raise RuntimeFileError(f"{path} needs an engine: pip install {wanted}")
    try:
        if candidates[0] == "onnxruntime":
            opened: OnnxRuntime | OpenVINO = OnnxRuntime(path, threads, providers)
        else:
            opened = OpenVINO(path, threads, shapes, each_shape, device or "CPU")
    except RuntimeFileError:
        raise
    except Exception as error:  # engines have no common type
        reason = " ".join(str(error).split())[:300]
        raise RuntimeFileError(f"{candidates[0]} cannot read {path}: {reason}") from error
    if not opened.facts:
        raise RuntimeFileError(
            f"{path} was not written by tools/deployment/export.py: it does not say how images "
            "are prepared."
        )
    return opened


class OnnxRuntime:
    """ONNX Runtime.

    Args:
        path: A file that ends in ``.onnx``.
        threads: Threads to use.
        providers: What computes, the first choice first.
    """

    def __init__(
        self, path: str, threads: int | None = None, providers: Sequence[Any] | None = None
    ) -> None:
        import onnxruntime

        chosen = list(providers or ["CPUExecutionProvider"])
        names = [name if isinstance(name, str) else name[0] for name in chosen]
        there = onnxruntime.get_available_providers()
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        if threads:
            options.intra_op_num_threads = threads
        if set(names) <= set(there):
            self._session = onnxruntime.InferenceSession(path, options, providers=chosen)
            there = self._session.get_providers()  # without those whose libraries are missing
        lacking = [name for name in names if name not in there]
        if lacking:  # ONNX Runtime would take another one
            raise RuntimeFileError(
                f"ONNX Runtime has no {lacking[0]} here, but {', '.join(there)}: choose one of "
                "these, or install a build that has it, such as onnxruntime-gpu, and its libraries."
            )
        self.facts = json.loads(self._session.get_modelmeta().custom_metadata_map.get(KEY, "{}"))
        self._names = [node.name for node in self._session.get_outputs()]

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs, by name."""
        return dict(zip(self._names, self._session.run(self._names, inputs), strict=True))


@functools.cache
def _openvino_core() -> Any:
    """The one that all models of this process share.

    Each has a stack for signal handlers set, and sets the former one again when it is deleted: of
    two that are deleted in the order in which they were made, the stack of the first would stay
    set, although it has been freed, and the next signal would be a segmentation fault.
    """
    import openvino

    return openvino.Core()


class OpenVINO:
    """OpenVINO, in single precision.

    Args:
        path: A file that ends in ``.xml`` or ``.onnx``.
        threads: Threads to use.
        shapes: Shapes of the inputs, by name.
        each_shape: Whether to compile the model for every shape that comes.
        device: Where to compute.
    """

    def __init__(
        self,
        path: str,
        threads: int | None = None,
        shapes: dict[str, tuple[int, ...]] | None = None,
        each_shape: bool = False,
        device: str = "CPU",
    ) -> None:
        self._device = device
        self._read = model = _openvino_core().read_model(path)
        # Of an ONNX file, OpenVINO keeps what it says about itself in a place of its own.
        places = [place for place in ([KEY], ["framework", KEY]) if model.has_rt_info(place)]
        self.facts = json.loads(model.get_rt_info(places[0]).astype(str)) if places else {}
        self._names = [output.get_any_name() for output in model.outputs]
        self._options = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            self._options["INFERENCE_NUM_THREADS"] = threads
        self._each_shape = each_shape
        self._models = {} if each_shape else {None: self._compile(shapes)}

    def _compile(self, shapes: dict[str, tuple[int, ...]] | None) -> Any:
        model = self._read
        if shapes:
            model = model.clone()
            model.reshape({name: list(shape) for name, shape in shapes.items()})
        return _openvino_core().compile_model(model, self._device, self._options)

    def __call__(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Compute all outputs, by name."""
        key = None
        if self._each_shape:
            shapes = {name: value.shape for name, value in inputs.items()}
            key = tuple(sorted(shapes.items()))
            # The one used last goes to the end, and the first one goes.
            self._models[key] = self._models.pop(key, None) or self._compile(shapes)
            if len(self._models) > MOST_SHAPES:
                del self._models[next(iter(self._models))]
        results = self._models[key](inputs)
        return {name: np.array(results[i]) for i, name in enumerate(self._names)}
