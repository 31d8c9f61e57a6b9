"""A small part of the campaign: each kind is alive and refused, and each way in refuses one."""

import copy

import pytest
import torch
from mmengine.logging import HistoryBuffer

from campaigns.payloads import PAYLOADS, bites, prepare, read_in_threads
from mmhcgnet.checkpoints import read_checkpoint
from mmhcgnet.errors import UsageError

losses = HistoryBuffer([1.5], [1])
GENUINE = dict(
    meta=dict(epoch=1, iter=2),
    state_dict=dict(a=torch.ones(3)),
    optimizer=dict(state={}, param_groups=[dict(lr=0.1, params=[0])]),
    message_hub=dict(log_scalars={"train/loss": losses}, runtime_info={}, resumed_keys={}),
)


@pytest.mark.parametrize("kind", PAYLOADS)
def test_a_malicious_file_runs_nothing(tmp_path, kind):
    payload = PAYLOADS[kind]
    if payload.runs:
        assert bites(kind, tmp_path, copy.deepcopy(GENUINE))
    mark, path = tmp_path / "mark", tmp_path / f"file{payload.suffix}"
    path.write_bytes(payload.make(copy.deepcopy(GENUINE), f"open('{mark}', 'w')"))
    if payload.loads:
        read_checkpoint(str(path))
    else:
        with pytest.raises(UsageError) as error:
            read_checkpoint(str(path))
        assert "\n" not in str(error.value)
    assert not mark.exists()


@pytest.fixture(autouse=True)
def histories(monkeypatch):
    """A payload may replace the functions of all histories where it is read without guard."""
    methods = dict(HistoryBuffer._statistics_methods)
    monkeypatch.setattr(HistoryBuffer, "_statistics_methods", methods)


def test_threads_do_not_meet(tmp_path):
    assert read_in_threads(tmp_path, reads=10) == []


@pytest.fixture(scope="module")
def case(warm, tmp_path_factory):
    with prepare(warm, tmp_path_factory.mktemp("payloads")) as case:
        yield case


@pytest.mark.slow(reason="15 runs of scripts")
def test_no_way_in_runs_anything(case):
    failures = {entry: case.try_entry("exec", entry) for entry in case.entries}
    assert len(failures) == 15 and not any(failures.values()), failures


@pytest.mark.parametrize("entry", ["--resume PATH", "--resume", "DetInferencer-alone"])
@pytest.mark.parametrize("kind", ["runtime_info.cfg", "hidden pop in meta"])
def test_the_text_of_a_config_is_not_executed(case, kind, entry):
    assert case.try_entry(kind, entry) is None
