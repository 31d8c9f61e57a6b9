"""From images to what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .engines import RuntimeFileError, open_engine
from .images import pad, prepare, read
from .masks import paste


class Predictor:
    """An exported model that takes images of any kind.

    Args:
        path: A file of ``tools/deployment/export.py``: ``.onnx``, or ``.xml`` with its ``.bin``.
        engine: ``'onnxruntime'`` or ``'openvino'``; by default the one that is installed.
        threads: Threads to use; by default the engine decides.
        each_shape: Compile the model again for every shape of a batch, and keep the last four.
            OpenVINO is quicker then, after seconds for each shape.
        providers: Of ONNX Runtime, as ``['CUDAExecutionProvider']``; by default the CPU's.
        device: Of OpenVINO, as ``'GPU'``; by default ``'CPU'``.

    Attributes:
        facts (dict): What the file says about itself.
        classes (list[str]): Names of the classes; empty if the file has none.

    Raises:
        FileNotFoundError: If the file does not exist.
        RuntimeFileError: If it is not an exported model, or no engine for it is installed, or
            the engine lacks a provider or the device.
    """

    def __init__(
        self,
        path: str,
        engine: str | None = None,
        threads: int | None = None,
        each_shape: bool = False,
        providers: Sequence[Any] | None = None,
        device: str | None = None,
    ) -> None:
        self._engine = open_engine(str(path), engine, threads, None, each_shape, providers, device)
        self.facts = self._engine.facts
        self.classes: list[str] = list(self.facts.get("classes") or [])
        if self.facts["steps"] is None:
            raise RuntimeFileError(
                f"{path} prepares images by {self.facts['unknown_step']}, which is not known here: "
                "prepare them by yourself and use open_engine."
            )

    def __call__(self, images: Any, batch_size: int = 1) -> Any:
        """Predict.

        Args:
            images: A file, an image of Pillow or uint8 ``(H, W, 3)`` in RGB; or a list of them, or
                uint8 ``(N, H, W, 3)``.
            batch_size: Images at once. Smaller ones are padded to the largest, which a network
                sees; with one at a time they are as in the toolboxes' inferencers.

        Returns:
            A dict for an image, a list of dicts for several. Of a detector: ``boxes (n, 4)`` as
            ``(x1, y1, x2, y2)`` in pixels, ``scores (n)``, best first, ``labels (n)`` and perhaps
            ``masks (n, H, W)``. Of a classifier: ``scores (classes)`` and ``label``. Of a backbone:
            its maps ``(C, H', W')``.

        Raises:
            FileNotFoundError: If a file does not exist.
            RuntimeFileError: If something is not an image, or images that a classifier is to see
                at once differ in size.
        """
        several = isinstance(images, list | tuple) or getattr(images, "ndim", 0) == 4
        todo = list(images) if several else [images]
        results = []
        for start in range(0, len(todo), batch_size):
            results += self._predict(list(map(read, todo[start : start + batch_size])))
        return results if several else results[0]

    def _predict(self, images: list[np.ndarray]) -> list[dict[str, Any]]:
        prepared = [prepare(image, self.facts["steps"]) for image in images]
        if self.facts["task"] == "detection":
            return self._detect(images, prepared)
        if len({image.shape for image in prepared}) > 1:
            raise RuntimeFileError(
                "Images of different size cannot be seen at once: use batch_size=1."
            )
        outputs = self._engine(dict(images=np.stack(prepared)))
        rows = [{name: values[i] for name, values in outputs.items()} for i in range(len(images))]
        if self.facts["task"] == "classification":
            rows = [dict(row, label=int(row["scores"].argmax())) for row in rows]
        return rows

    def _detect(
        self, images: Sequence[np.ndarray], prepared: Sequence[np.ndarray]
    ) -> list[dict[str, Any]]:
        batch, sizes = pad(prepared, self.facts["pad_divisor"])
        outputs = self._engine(dict(images=batch, sizes=sizes))
        results = []
        for i, (image, size) in enumerate(zip(images, sizes, strict=True)):
            there = outputs["labels"][i] >= 0
            factors = (size / image.shape[:2])[[1, 0, 1, 0]].astype(np.float32)
            result = {name: outputs[name][i][there] for name in ("boxes", "scores", "labels")}
            result["boxes"] = result["boxes"] / factors
            if "masks" in outputs:
                result["masks"] = paste(
                    outputs["masks"][i][there],
                    result["boxes"],
                    image.shape[:2],
                    self.facts["mask_threshold"],
                )
            results.append(result)
        return results
