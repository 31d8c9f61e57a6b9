"""The campaign of damages, small."""

import random

import pytest
import torch
from mmengine.runner.checkpoint import save_checkpoint

from campaigns import damage


@pytest.mark.slow(reason="reads some hundred checkpoints")
def test_every_damage_is_noticed():
    found, missed = damage.run(40, seed=1)
    assert not missed
    assert found.total() == 40


@pytest.mark.parametrize("kind", dict.fromkeys(damage.KINDS), ids=lambda kind: kind.__name__)
def test_each_kind_changes_the_file(kind):
    content = random.Random(0).randbytes(5000)
    for seed in range(50):
        assert kind(content, random.Random(seed)) != content


def test_a_reader_that_notices_nothing_is_told(tmp_path, monkeypatch):
    """MMEngine's files through PyTorch's reader, which checks nothing."""
    monkeypatch.setattr(
        damage, "read_checkpoint", lambda path: torch.load(path, weights_only=False)
    )
    checkpoint = damage.make_checkpoint()
    path = tmp_path / "epoch_3.pth"
    save_checkpoint(checkpoint, str(path))
    content = bytearray(path.read_bytes())
    weights = checkpoint["state_dict"]["0.stem.conv.weight"].numpy().tobytes()
    content[content.index(weights)] ^= 1
    path.write_bytes(content)
    assert damage._notice(tmp_path, path, "of MMEngine", checkpoint) == "not noticed"
