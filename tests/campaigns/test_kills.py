"""The campaign of kills, small, and that it tells faults."""

import random

import pytest
import torch
from helpers.scripts import Result
from mmengine.runner.checkpoint import save_checkpoint

from campaigns import kills


@pytest.mark.slow(reason="some five trainings")
def test_killed_runs_lose_nothing_and_resume(warm):
    setting = "keep 1 and the best"
    line, good = kills.run(warm, 2, settings={setting: kills.SETTINGS[setting]})
    assert good, line
    assert line.startswith("kills: 2 (1 anywhere, 1 in a save")


@pytest.fixture
def campaign(tmp_path):
    campaign = object.__new__(kills.Campaign)
    vars(campaign).update(folder=tmp_path, keep=1, faults=[], resumed=0, rng=random.Random(0))
    return campaign


def save(folder, iteration, weight=1.0):
    path = str(folder / f"iter_{iteration}.pth")
    weights = dict(weight=torch.tensor([weight]))
    meta = dict(epoch=0, iter=iteration, time="20260101_120000")
    hub = dict(log_scalars={}, runtime_info={}, resumed_keys={})
    checkpoint = dict(meta=meta, state_dict=weights, ema_state_dict=weights, optimizer={})
    checkpoint["message_hub"] = hub
    save_checkpoint(checkpoint, path)
    (folder / "last_checkpoint").write_text(path)
    return checkpoint


def test_partial_and_lost_files_are_faults(campaign, tmp_path):
    save(tmp_path, 3)
    assert campaign._check(tmp_path, None) == 3 and not campaign.faults
    assert campaign._check(tmp_path, 6) == 3
    assert "lost: iteration 6, and now 3" in campaign.faults.pop()
    save(tmp_path, 6)
    (tmp_path / "iter_6.pth").write_bytes((tmp_path / "iter_6.pth").read_bytes()[:-9])
    assert campaign._check(tmp_path, 3) == 3
    assert "partial: " in campaign.faults.pop()
    (tmp_path / "iter_3.pth").unlink()
    campaign._check(tmp_path, 3)
    assert ["partial" in fault or "lost" in fault for fault in campaign.faults] == [True] * 2


@pytest.mark.parametrize("fault", ["exit code 1", "temporary", "other files", "state_dict is"])
def test_another_end_than_without_kills_is_a_fault(campaign, tmp_path, fault):
    whole, parts = tmp_path / "whole", tmp_path / "1"
    whole.mkdir()
    parts.mkdir()
    campaign.wanted = save(whole, 6)
    save(parts, 6, weight=2.0 if fault.startswith("state") else 1.0)
    if fault == "temporary":
        (parts / ".iter_6.pth.1.tmp").write_bytes(b"")
    elif fault == "other files":
        save(parts, 7)
    code = 1 if fault == "exit code 1" else 0
    campaign._finish(parts, Result(code, "", ""))
    assert campaign.faults and fault in campaign.faults[0]


def test_an_end_as_without_kills_is_none(campaign, tmp_path):
    (tmp_path / "whole").mkdir()
    (tmp_path / "1").mkdir()
    campaign.wanted = save(tmp_path / "whole", 6)
    save(tmp_path / "1", 6)
    campaign._finish(tmp_path / "1", Result(0, "", ""))
    assert not campaign.faults and campaign.resumed == 1
