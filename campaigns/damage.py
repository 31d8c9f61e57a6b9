"""Damages saved checkpoints in many ways and counts the damages that reading does not notice.

python -m campaigns.damage --count 600
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import save_checkpoint
from torch import nn

from mmhcgnet.checkpoints import encode_checkpoint, read_checkpoint
from mmhcgnet.checkpoints.durable_files import ATOMIC
from mmhcgnet.checkpoints.newest import find_newest
from mmhcgnet.errors import UsageError
from mmhcgnet.models import HCGNet

SECTOR = 512  # bytes that a disk loses at once


def flip(content: bytes, rng: random.Random) -> bytes:
    """Flip a bit."""
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut(content: bytes, rng: random.Random) -> bytes:
    """End early: anywhere, or within the last bytes."""
    length = len(content)
    return content[: rng.choice([rng.randrange(length), length - rng.randrange(1, 200)])]


def blank(content: bytes, rng: random.Random) -> bytes:
    """Lose a sector, which then reads as zeros."""
    while True:
        place = rng.randrange(len(content)) // SECTOR * SECTOR
        part = content[place : place + SECTOR]
        if any(part):
            return content[:place] + bytes(len(part)) + content[place + SECTOR :]


def append(content: bytes, rng: random.Random) -> bytes:
    """Go on after the end."""
    return content + rng.randbytes(rng.randrange(1, 100))


KINDS: list[Callable[[bytes, random.Random], bytes]] = [flip, flip, flip, cut, cut, blank, append]


def make_checkpoint() -> dict:
    """What a training of a small HCGNet saves, after a step."""
    torch.manual_seed(0)
    model = nn.Sequential(
        HCGNet(arch=dict(depths=(2, 1, 2), growth_rates=(4, 8, 12), stem="cifar")),
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sum(out.square().mean() for out in model(torch.randn(2, 3, 32, 32))).backward()
    optimizer.step()
    return dict(
        meta=dict(epoch=3, iter=30, time="20260101_120000", dataset_meta=dict(classes=("a", "b"))),
        state_dict=model.state_dict(),
        message_hub=dict(
            log_scalars=dict(loss=HistoryBuffer([0.5], [1])), runtime_info={}, resumed_keys={}
        ),
        optimizer=optimizer.state_dict(),
        param_schedulers=[],
    )


def run(count: int, seed: int = 0) -> tuple[Counter, list[str]]:
    """Damage files.

    Args:
        count: How often.
        seed: Of the random numbers.

    Returns:
        How many damages of each format and kind were found, and a line on each that was not.
    """
    rng, found, missed = random.Random(seed), Counter(), []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = make_checkpoint()
        for file in ("epoch_2.pth", "sealed.pth"):
            save_checkpoint(checkpoint, str(folder / file), backend_args=dict(backend=ATOMIC))
        save_checkpoint(checkpoint, str(folder / "mmengine.pth"))
        weights = dict(state_dict=checkpoint["state_dict"], meta=checkpoint["meta"])
        (folder / "a.safetensors").write_bytes(encode_checkpoint(weights, "a.safetensors"))
        contents = {
            format: (folder / file).read_bytes()
            for format, file in (
                ("sealed", "sealed.pth"),
                ("of MMEngine", "mmengine.pth"),
                ("safetensors", "a.safetensors"),
            )
        }
        for file in ("sealed.pth", "mmengine.pth", "a.safetensors"):
            (folder / file).unlink()
        # Most of ours; the rest of what others write, which has weaker checksums.
        for number in range(count):
            format = rng.choice(["sealed"] * 8 + ["of MMEngine", "safetensors"])
            kind = rng.choice(KINDS)
            content = kind(contents[format], rng)
            path = folder / ("epoch_3.safetensors" if format == "safetensors" else "epoch_3.pth")
            path.write_bytes(content)
            fault = _notice(folder, path, format, checkpoint)
            path.unlink()
            if fault is None:
                found[f"{format}, {kind.__name__}"] += 1
            else:
                missed.append(f"{number}: {format}, {kind.__name__}: {fault}")
            if number % 50 == 49:
                print(f"{number + 1} of {count}", file=sys.stderr)
    return found, missed


def _notice(folder: Path, path: Path, format: str, checkpoint: dict) -> str | None:
    """Read a damaged file.

    Returns:
        What is wrong with how that ends.
    """
    try:
        read = read_checkpoint(str(path))
    except UsageError:
        pass
    except Exception as error:
        return f"{type(error).__name__} is no clear sentence"
    else:
        # Zip archives have bytes that mean nothing; only a seal covers them.
        same = read["meta"] == checkpoint["meta"] and all(
            torch.equal(read["state_dict"][key], value)
            for key, value in checkpoint["state_dict"].items()
        )
        if format != "of MMEngine" or not same:
            return "not noticed"
    if format != "sealed":
        return None
    chosen = find_newest([str(folder)], log=False).path
    return None if chosen == str(folder / "epoch_2.pth") else f"resumes from {chosen}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=600, help="damages (default: 600)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found, missed = run(args.count, args.seed)
    for line in missed:
        print(line, file=sys.stderr)
    table = "; ".join(f"{kind} {number}" for kind, number in sorted(found.items()))
    print(f"damage: {args.count} damages, {len(missed)} not noticed ({table})")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
