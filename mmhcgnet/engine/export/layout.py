"""Convolutions in the shapes that engines are quick at: in blocks of 16 channels.

ONNX Runtime keeps maps in such blocks wherever a convolution allows it. Others take up to five
times as long for the same work, with a copy of the map on either side. OpenVINO does not mind
groups of any width. What is added here are zeros.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np

BLOCK = 16  # channels, with AVX-512; 8 with AVX2
MOST = 4  # times the multiplications that blocks make up for


def align_channels(graph: Any, merges: bool = True) -> None:
    """Widen maps between convolutions, so that they are whole blocks.

    Args:
        graph: An ONNX graph with constants as initializers, changed in place.
        merges: Merge groups of convolutions, too.
    """
    _Aligned(graph).run(merges)


class _Aligned:
    def __init__(self, graph: Any) -> None:
        self.graph = graph
        self.constants = {each.name: each for each in graph.initializer}
        self.makers = {name: node for node in graph.node for name in node.output}
        self.uses = Counter(_read(graph))

    def run(self, merges: bool) -> None:
        for node in self.graph.node:
            if node.op_type == "Conv" and node.input[1] in self.constants:
                if _groups(node) == 1:
                    self.widen_input(node)
                elif merges:
                    self.merge_groups(node)
        used = set(_read(self.graph))
        kept = [each for each in self.graph.initializer if each.name in used]
        del self.graph.initializer[:]
        self.graph.initializer.extend(kept)

    def merge_groups(self, node: Any) -> None:
        """Put zeros between groups that are no whole blocks; depthwise ones have their own."""
        groups, weight = _groups(node), self.value(node, 1)  # (C_out, C_in / groups, kH, kW)
        out, wide = len(weight) // groups, weight.shape[1]
        counts = [n for n in range(1, min(groups, MOST) + 1) if groups % n == 0]
        whole = [n for n in counts if out * n % BLOCK == wide * n % BLOCK == 0]
        if wide == 1 or not whole or whole[0] == 1:
            return
        n = whole[0]
        merged = np.zeros((groups // n, n, out, n, *weight.shape[1:]), weight.dtype)
        for i in range(n):
            merged[:, i, :, i] = weight.reshape(groups // n, n, out, *weight.shape[1:])[:, i]
        self.replace(node, 1, merged.reshape(len(weight), n * wide, *weight.shape[2:]))
        next(each for each in node.attribute if each.name == "group").i = groups // n

    def widen_input(self, node: Any) -> None:
        """Let the convolution in front, if there is but a ReLU between, give whole blocks."""
        relu = self.makers.get(node.input[0])
        front = self.makers.get(relu.input[0]) if relu and relu.op_type == "Relu" else None
        if not front or front.op_type != "Conv" or _groups(front) > 1:
            return
        missing = -self.value(node, 1).shape[1] % BLOCK
        alone = self.uses[relu.input[0]] == self.uses[node.input[0]] == 1
        if not (missing and alone and self.constants.keys() >= set(front.input[1:])):
            return
        for each, index, axis in ((front, 1, 0), (front, 2, 0), (node, 1, 1)):
            if index < len(each.input):
                value = self.value(each, index)
                widths = [(0, missing if i == axis else 0) for i in range(value.ndim)]
                self.replace(each, index, np.pad(value, widths))

    def value(self, node: Any, index: int) -> np.ndarray:
        from onnx import numpy_helper

        return numpy_helper.to_array(self.constants[node.input[index]])

    def replace(self, node: Any, index: int, value: np.ndarray) -> None:
        """Give a node a constant of its own; others may share what it had."""
        from onnx import numpy_helper

        name = f"{node.output[0]}_aligned{index}"
        self.constants[name] = numpy_helper.from_array(value, name)
        self.graph.initializer.append(self.constants[name])
        node.input[index] = name


def _read(graph: Any) -> Iterator[str]:
    """The names that a graph and those in it read, once for each time."""
    yield from (output.name for output in graph.output)
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _read(inner)


def _groups(conv: Any) -> int:
    return next((each.i for each in conv.attribute if each.name == "group"), 1)
