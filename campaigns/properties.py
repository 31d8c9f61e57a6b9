"""HCGNet at every setting: sizes, finite maps, gradients where something trains, one image or two.

    python -m campaigns.properties [--arch A1 B] [--share 0.1] [--seed 0]

It takes the five published networks with every choice of ``out_indices``, every ``frozen_stages``
and a batch of one and of two images, 570 cases, each with sizes of its own between 32 and 257.
``tests/models/test_properties.py`` lets hypothesis draw some.
"""

from __future__ import annotations

import argparse
import itertools
import math
import random
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from helpers.reference import ARCHS, TRANSITION
from mmengine.logging import MMLogger

from mmhcgnet.models import HCGNet

SIZES = (32, 257)


@dataclass(frozen=True)
class Case:
    """A setting; ``arch`` is a name or ``(depths, growth_rates, stem)``, ``size`` is (H, W)."""

    arch: str | tuple
    out_indices: tuple[int, ...]
    frozen_stages: int
    batch: int
    size: tuple[int, int]
    norm_eval: bool = False
    with_cp: bool = False


def check(case: Case) -> None:
    """Build a network and train it for half a step.

    Raises:
        AssertionError: If it does not keep one of its promises.
    """
    depths, growth_rates, stem = numbers = ARCHS.get(case.arch, case.arch)
    arch = case.arch
    if not isinstance(arch, str):
        arch = dict(depths=depths, growth_rates=growth_rates, stem=stem)
    torch.manual_seed(0)
    network = HCGNet(
        arch,
        out_indices=case.out_indices,
        frozen_stages=case.frozen_stages,
        norm_eval=case.norm_eval,
        with_cp=case.with_cp,
    )
    network.init_weights()
    network.train()
    image = torch.randn(case.batch, 3, *case.size)
    built = max(case.out_indices) + 1
    all_frozen = case.frozen_stages >= built
    if case.batch == 1 and not case.norm_eval and not all_frozen:
        # The statistics of one vector: refused, and nothing is changed by the attempt.
        before = {name: buffer.clone() for name, buffer in network.named_buffers()}
        message = ""
        try:
            network(image)
        except ValueError as error:
            message = str(error)
        assert "norm_eval=True" in message, message or "a batch of one image was trained on"
        for name, buffer in network.named_buffers():
            assert torch.equal(buffer, before[name]), name
        network.norm_eval = True
        network.train()
    check_maps(network(image), case, numbers)
    network.eval()
    with torch.no_grad():
        check_maps(network(image), case, numbers)
    network.train()
    maps = network(image)
    if not all_frozen:
        # Weighted, as the mean over a normalised map does not depend on what was normalised.
        sum((out * torch.randn_like(out)).mean() for out in maps).backward()
    frozen = frozen_prefixes(case.frozen_stages, built)
    for name, parameter in network.named_parameters():
        trains = not name.startswith(frozen)
        assert parameter.requires_grad is trains, name
        assert (parameter.grad is not None) is trains, name
        if trains:
            assert parameter.grad.isfinite().all(), name


def check_maps(maps: tuple[torch.Tensor, ...], case: Case, numbers: tuple) -> None:
    """Check the number, shapes and values of the maps."""
    channels = stage_channels(*numbers)
    first = 4 if numbers[2] == "imagenet" else 1
    assert isinstance(maps, tuple) and len(maps) == len(case.out_indices)
    for i, out in zip(case.out_indices, maps, strict=True):
        sides = [math.ceil(side / (first * 2**i)) for side in case.size]
        assert list(out.shape) == [case.batch, channels[i], *sides], (i, out.shape)
        assert out.isfinite().all(), f"stage {i} is not finite"
        assert (out >= 0).all(), f"stage {i} is not activated"


def stage_channels(depths: tuple, growth_rates: tuple, stem: str) -> list[int]:
    """Channels of every stage: ``C_0 + n k``, and ``theta`` of it behind a transition."""
    channels, stages = (64 if stem == "imagenet" else 2 * growth_rates[0]), []
    for depth, growth_rate in zip(depths, growth_rates, strict=True):
        stages.append(channels + depth * growth_rate)
        channels = int(TRANSITION["theta"] * stages[-1])
    return stages


def frozen_prefixes(frozen_stages: int, built: int) -> tuple[str, ...]:
    """The beginnings of the names of what is frozen."""
    if frozen_stages < 0:
        return ()
    if frozen_stages >= built:
        return ("",)
    stages = [f"stages.{i}." for i in range(frozen_stages)]
    return ("stem.", *stages, *(f"transitions.{i}." for i in range(frozen_stages - 1)))


def grid(archs: list[str], seed: int) -> Iterator[Case]:
    """Every setting of the networks, with sizes that depend on the seed, small ones more often."""
    draw = random.Random(seed)
    for arch in archs:
        stages = range(len(ARCHS[arch][0]))
        subsets = (s for n in stages for s in itertools.combinations(stages, n + 1))
        frozen = range(-1, len(stages) + 1)
        for out_indices, frozen_stages, batch in itertools.product(subsets, frozen, (1, 2)):
            size = tuple(
                round(math.exp(draw.uniform(*(math.log(side) for side in SIZES)))) for _ in range(2)
            )
            shuffled = tuple(draw.sample(out_indices, len(out_indices)))
            yield Case(arch, shuffled, frozen_stages, batch, size, with_cp=draw.random() < 0.25)


def main() -> int:
    """Run the campaign; return 1 if a case failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", choices=ARCHS, default=list(ARCHS))
    parser.add_argument("--share", type=float, default=1.0, help="of the cases, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    MMLogger.get_current_instance().setLevel("ERROR")  # MMEngine logs each tensor that it draws
    draw = random.Random(args.seed)
    cases = [case for case in grid(args.arch, args.seed) if draw.random() < args.share]
    failed, start = 0, time.monotonic()
    for number, case in enumerate(cases, 1):
        try:
            check(case)
        except Exception as error:
            failed += 1
            print(f"{case}: {type(error).__name__}: {error}", file=sys.stderr)
        if number % 10 == 0 or number == len(cases):
            seconds = time.monotonic() - start
            print(f"{number}/{len(cases)} cases, {seconds:.0f} s", file=sys.stderr, flush=True)
    print(f"properties: {len(cases)} cases, {failed} failed")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
