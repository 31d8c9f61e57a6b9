"""How the authors' two programs name the parts of the network that we call ``backbone.*``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import torch

from mmhcgnet.models import ARCHITECTURES, HCGNet

# Parts of an SMG module. The first convolution of a cell has its norm next to it.
_CELLS = dict(squeeze1="conv1_1x1", squeeze2="conv2_3x3", branch3="conv_3x3", branch5="conv_5x5")
_GATES = {
    "update_gate.attention3": "global_context3x3",
    "update_gate.attention5": "global_context5x5",
    "update_gate.reduce": "fcall",
    "update_gate.norm": "bn_attention",
    "update_gate.expand3": "fc3x3",
    "update_gate.expand5": "fc5x5",
    "forget_gate.attention": "global_forget_context",
    "forget_gate.norm": "bn_forget",
    "forget_gate.reduce": "fc1",
    "forget_gate.expand": "fc2",
}
_PARTS = [*_CELLS, *_GATES]  # in the order of the authors' files


@dataclass(frozen=True)
class Layout:
    """Names in one of the authors' programs, with fields for the numbers.

    Args:
        stem_conv: Convolution ``i`` of the stem, from 0.
        stem_norm: Norm ``i`` of the stem, from 0.
        module: SMG module ``m`` of hybrid block ``b``, which counts from 1.
        first_module: What ``m`` counts from.
        transition: Transition ``b``.
        first_transition: What ``b`` counts from in transitions.
        final_norm: The norm behind the last block.
        cell_norm: The norm in front of a convolution of a module.
    """

    stem_conv: str
    stem_norm: str
    module: str
    first_module: int
    transition: str
    first_transition: int
    final_norm: str
    cell_norm: str

    def name(self, ours: str) -> str:
        """Translate the name of a tensor of our backbone."""
        *path, kind = ours.split(".")
        match path:
            case ["stem", "conv"]:
                return f"{self.stem_conv.format(i=0)}.{kind}"
            case ["stem", i, "conv"]:
                return f"{self.stem_conv.format(i=i)}.{kind}"
            case ["stem", i, "norm"]:
                return f"{self.stem_norm.format(i=i)}.{kind}"
            case ["norm"]:
                return f"{self.final_norm}.{kind}"
            case ["stages", block, index, *part]:
                place = self.module.format(b=int(block) + 1, m=int(index) + self.first_module)
            case ["transitions", index, *part]:
                place = self.transition.format(b=int(index) + self.first_transition)
        if part[0] in _CELLS:
            layer = self.cell_norm if part[1] == "norm" else part[1]
            return f"{place}.{_CELLS[part[0]]}.{layer}.{kind}"
        return f"{place}.{_GATES['.'.join(part)]}.{kind}"


IMAGENET = Layout(
    stem_conv="features.conv{i}",
    stem_norm="features.norm{i}",
    module="features.hybridblock{b}.SMG{m}",
    first_module=1,
    transition="features.transition{b}",
    first_transition=1,
    final_norm="features.norm5",
    cell_norm="norm",
)
CIFAR = replace(
    IMAGENET, module="features.HybridBlock{b}.SMG{m}", transition="features.Transition{b}"
)
DETECTION = Layout(
    stem_conv="backbone.stem{i}.conv",
    stem_norm="backbone.stem{i}.bn1",
    module="backbone.hybridblock{b}.{m}",
    first_module=0,
    transition="backbone.transition{b}",
    first_transition=2,  # numbered by the block that it feeds
    final_norm="backbone.bn1",
    cell_norm="bn1",
)


@dataclass(frozen=True)
class Pair:
    """A tensor's name and shape here and in the authors' layout."""

    ours: str
    shape: tuple[int, ...]
    official: str
    official_shape: tuple[int, ...]


def official_place(pair: Pair) -> tuple[int, ...]:
    """What to sort the pairs of a classifier by for the order that the authors' files have.

    Some of the authors' programs load by position. A transition follows the block behind which it
    stands, and the layers of a module have an order of their own, which is not the forward pass's.
    Tensors of one layer stay in the order that they have.
    """
    _, *path, _ = pair.ours.split(".")
    match path:
        case ["stem", *_]:
            return (0,)
        case ["stages", block, index, *part]:
            return (1, int(block), 0, int(index), _part_index(part))
        case ["transitions", index, *part]:
            return (1, int(index), 1, 0, _part_index(part))
        case ["norm"]:
            return (2,)
    return (3,)  # the classifier


def _part_index(part: list[str]) -> int:
    return _PARTS.index(part[0] if part[0] in _CELLS else ".".join(part))


@cache
def build_network(arch: str) -> HCGNet:
    """Build a published network with all its outputs and no memory for its weights."""
    with torch.device("meta"):
        return HCGNet(arch, out_indices=tuple(range(len(ARCHITECTURES[arch].depths))))


def backbone_pairs(arch: str, layout: Layout) -> list[Pair]:
    """Pair the tensors of a backbone, which here are named ``backbone.*``."""
    pairs = []
    for name, tensor in build_network(arch).state_dict().items():
        shape = tuple(tensor.shape)
        # The authors' fully connected layers are 1x1 convolutions.
        official_shape = (*shape, 1, 1) if len(shape) == 2 else shape
        pairs.append(Pair(f"backbone.{name}", shape, layout.name(name), official_shape))
    return pairs
