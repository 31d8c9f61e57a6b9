"""The numbers that make an HCGNet: the five published networks, and any other.

Yang et al., Gated Convolutional Networks with Hybrid Connectivity for Image Classification,
AAAI 2020, https://arxiv.org/abs/1908.09699.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any


def is_positive(value: Any, *kinds: type) -> bool:
    """Whether a value is a finite number above 0 of one of these types, and no truth value."""
    return type(value) in kinds and 0 < value < math.inf


def _positive_ints(values: Any) -> bool:
    return (
        isinstance(values, Sequence)
        and not isinstance(values, str)
        and len(values) > 0
        and all(is_positive(value, int) for value in values)
    )


def scaled(channels: int, ratio: float) -> int:
    """Return the floor of ``ratio * channels``, of the product as written: 2.3 * 100 is 230."""
    return math.floor(ratio * channels + 1e-6)


@dataclasses.dataclass(frozen=True)
class Architecture:
    """The numbers that make an HCGNet (figure 3 and table 1).

    Args:
        depths: SMG modules in each hybrid block.
        growth_rates: Channels that each module of a block adds, ``k``.
        stem: ``'imagenet'`` (three convolutions and a pooling, stride 4) or ``'cifar'``
            (one convolution, stride 1).
        groups: Groups of the 3x3 squeeze convolution in hybrid blocks, ``g``.
        squeeze_ratio: Width of the squeeze over the growth rate in hybrid blocks, ``alpha``.
        reduction: Reduction in the gates of hybrid blocks, ``r_u`` and ``r_f``.
        transition_ratio: Channels kept by a transition, ``theta``.
        transition_groups: ``g`` in transitions.
        transition_squeeze_ratio: ``alpha`` in transitions.
        transition_reduction: ``r_u`` and ``r_f`` in transitions.

    Raises:
        ValueError: If a value is out of range or the numbers do not fit together.
    """

    depths: Sequence[int]
    growth_rates: Sequence[int]
    stem: str = "imagenet"
    groups: int = 4
    squeeze_ratio: float = 4.0
    reduction: int = 2
    transition_ratio: float = 0.5
    transition_groups: int = 1
    transition_squeeze_ratio: float = 1.5
    transition_reduction: int = 4

    def __post_init__(self) -> None:
        for name in ("depths", "growth_rates"):
            value = getattr(self, name)
            if not _positive_ints(value):
                raise ValueError(
                    f"{name} must be a non-empty sequence of integers above 0, got {value!r}."
                )
            object.__setattr__(self, name, tuple(value))
        if len(self.depths) != len(self.growth_rates):
            raise ValueError(
                "depths and growth_rates must have one entry for each hybrid block, got "
                f"{len(self.depths)} and {len(self.growth_rates)}."
            )
        if self.stem not in ("imagenet", "cifar"):
            raise ValueError(f"stem must be 'imagenet' or 'cifar', got {self.stem!r}.")
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if type(field.default) is int and not is_positive(value, int):
                raise ValueError(f"{field.name} must be an integer above 0, got {value!r}.")
            if type(field.default) is float and not is_positive(value, int, float):
                raise ValueError(f"{field.name} must be a number above 0, got {value!r}.")

    @classmethod
    def create(cls, arch: str | dict) -> Architecture:
        """Look up a published network by name, or read a dict of this class's arguments.

        Raises:
            ValueError: If the name or a key of the dict is unknown, or a key is missing.
        """
        if isinstance(arch, str):
            if arch.upper() not in ARCHITECTURES:
                raise ValueError(
                    f"Unknown arch {arch!r}: choose one of {', '.join(ARCHITECTURES)}, or give a "
                    "dict with 'depths' and 'growth_rates'."
                )
            return ARCHITECTURES[arch.upper()]
        if not isinstance(arch, dict):
            raise ValueError(
                f"arch must be one of {', '.join(ARCHITECTURES)} or a dict, got {arch!r}."
            )
        allowed = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(arch) - set(allowed))
        missing = [name for name in ("depths", "growth_rates") if name not in arch]
        if unknown or missing:
            raise ValueError(
                f"arch has the unknown keys {unknown} and lacks the keys {missing}; "
                f"it takes {', '.join(allowed)}."
            )
        return cls(**arch)

    def geometry(
        self,
        output_stride: int | None = None,
        strides: Sequence[int] | None = None,
        dilations: Sequence[int] | None = None,
        stages: int | None = None,
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Return the strides and the dilations of the stages.

        Args:
            output_stride: Largest stride of a map, in pixels. Transitions that would exceed it have
                stride 1, and what is behind them is dilated instead. Defaults to none: every
                transition has stride 2.
            strides: Stride of the transition in front of each stage; the first stage has none, and
                the stride 1. Not with ``output_stride``.
            dilations: Dilation of each stage. Not with ``output_stride``.
            stages: How many stages are built; strides and dilations of others may be left out.
                Defaults to all.

        Raises:
            ValueError: If a value is not allowed or does not fit the number of stages.
        """
        total = len(self.depths)
        if output_stride is None:
            given = dict(
                strides=(1,) + (2,) * (total - 1) if strides is None else strides,
                dilations=(1,) * total if dilations is None else dilations,
            )
            for name, value in given.items():
                if not (_positive_ints(value) and (stages or total) <= len(value) <= total):
                    raise ValueError(
                        f"{name} must be integers above 0, one for each of the {total} stages, "
                        f"got {value!r}."
                    )
            if given["strides"][0] != 1:
                raise ValueError(
                    "strides must begin with 1, as no transition precedes the first stage, got "
                    f"{strides!r}."
                )
            return tuple(given["strides"]), tuple(given["dilations"])
        if strides is not None or dilations is not None:
            raise ValueError("output_stride sets strides and dilations: give it or them, not both.")
        allowed = [self.stem_stride * 2**i for i in range(total)]
        if type(output_stride) is not int or output_stride not in allowed:
            raise ValueError(
                f"output_stride must be one of {', '.join(map(str, allowed))}, "
                f"got {output_stride!r}."
            )
        excess = [max(stride // output_stride, 1) for stride in allowed]
        steps = [1] + [1 if stride > output_stride else 2 for stride in allowed[1:]]
        return tuple(steps), tuple(excess)

    @property
    def stage_channels(self) -> tuple[int, ...]:
        """Channels of the map of each stage."""
        found, channels = [], self.stem_channels
        for depth, growth_rate in zip(self.depths, self.growth_rates, strict=True):
            found.append(channels + depth * growth_rate)
            channels = scaled(found[-1], self.transition_ratio)
        return tuple(found)

    @property
    def stem_channels(self) -> int:
        """Channels of the stem's output."""
        return 64 if self.stem == "imagenet" else 2 * self.growth_rates[0]

    @property
    def stem_stride(self) -> int:
        """Pixels of the image for one position of the stem's output."""
        return 4 if self.stem == "imagenet" else 1


ARCHITECTURES = {
    "A1": Architecture((8, 8, 8), (12, 24, 36), stem="cifar"),
    "A2": Architecture((8, 8, 8), (24, 36, 64), stem="cifar"),
    "A3": Architecture((12, 12, 12), (36, 48, 80), stem="cifar"),
    "B": Architecture((3, 6, 12, 8), (32, 48, 64, 96)),
    "C": Architecture((6, 12, 18, 14), (48, 56, 72, 112)),
}
