"""The same seed gives the same losses: in two runs bit by bit, and as in the committed files.

After a change that is meant to change the training of a network, write the files anew and say so
in the changelog:

    python tests/models/test_determinism.py
"""

import json
import sys
from pathlib import Path

import pytest
import torch
from helpers.processes import run_processes
from torch import nn

from mmhcgnet.models import HCGNet

DATA = Path(__file__).parents[1] / "data"
# Networks by the name of the file with their losses: what is built, images a batch and their size.
RECORDED = {
    "a1": (dict(arch="A1", dropblock=dict(block_size=2)), 6, (20, 24)),
    "b": (dict(arch="B", out_indices=(0, 1, 2, 3)), 6, (48, 32)),
    "b_frozen": (dict(arch="B", out_indices=(1, 3), frozen_stages=2, norm_eval=True), 2, (32, 48)),
}
SMALL = dict(arch=dict(depths=(1, 2), growth_rates=(8, 8)), dropblock=dict(block_size=2))


def train(options, batch, size, steps, dtype=torch.float32, plain=False):
    """Train from scratch on images that are drawn, and return the loss of every step."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the order of additions depends on it
    try:
        torch.manual_seed(0)
        network = HCGNet(**options).to(dtype)  # to draw the weights in this type
        network.plain = plain
        network.init_weights()
        network.train()
        classifier = nn.Linear(sum(network.out_channels), 5, dtype=dtype)
        parameters = [*network.parameters(), *classifier.parameters()]
        optimizer = torch.optim.SGD(
            [p for p in parameters if p.requires_grad],
            lr=0.01,
            momentum=0.9,
            nesterov=True,
            weight_decay=1e-4,
        )
        losses = []
        for _ in range(steps):
            images = torch.randn(batch, 3, *size, dtype=dtype)
            labels = torch.randint(5, (batch,))
            pooled = torch.cat([x.mean((2, 3)) for x in network(images)], dim=1)
            loss = nn.functional.cross_entropy(classifier(pooled), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses
    finally:
        torch.set_num_threads(threads)


def run_small():
    return train(SMALL, batch=4, size=(32, 40), steps=50)


def work(rank, folder):
    Path(folder, "losses.json").write_text(json.dumps(run_small()))  # JSON keeps every bit


def test_two_runs_have_the_same_losses_bit_by_bit(warm, tmp_path):
    """The second one in a process of its own, and whatever was drawn before the first."""
    torch.manual_seed(1)
    losses = run_small()
    assert len(set(losses)) == 50
    run_processes(warm, work, tmp_path, count=1)
    assert json.loads((tmp_path / "losses.json").read_text()) == losses


def record(name, plain=False):
    return train(*RECORDED[name], steps=5, dtype=torch.float64, plain=plain)


@pytest.mark.slow(reason="trains published networks in double precision")
@pytest.mark.parametrize("plain", [False, True], ids=["memory-saving", "plain"])
@pytest.mark.parametrize("name", RECORDED)
def test_losses_are_the_recorded_ones(name, plain):
    """Initialisation, DropBlock, both forms, freezing and gradients: a silent change shows here."""
    expected = json.loads((DATA / f"losses_{name}.json").read_text())
    assert len(expected) == 5
    assert record(name, plain) == pytest.approx(expected, rel=1e-6)


if __name__ == "__main__":
    DATA.mkdir(exist_ok=True)
    for name in RECORDED:
        (DATA / f"losses_{name}.json").write_text(json.dumps(record(name), indent=2) + "\n")
        print(f"{name} recorded", file=sys.stderr)
