"""A few faults of every sort, through the tools; data_faults.py has them all."""

import shutil

import pytest

from campaigns.data_faults import FAULTS, HARMLESS, Campaign

# Found at the start, in the main process, in a worker, and not at all.
CHOSEN = [
    ("detection", "no categories", "train"),
    ("detection", "missing mask", "test"),
    ("detection", "text for an image", "train"),
    ("detection", "transform that would hang", "test"),
    ("classification", "misspelt class folder", "test"),
    ("classification", "label that is too large", "train"),
    ("classification", "empty image", "test"),
    ("classification", "transform that would die", "train"),
    ("classification", "image of 16 bits", "test"),
]


@pytest.fixture(scope="module")
def campaign(warm, tmp_path_factory):
    return Campaign(warm, tmp_path_factory.mktemp("data_faults"))


@pytest.mark.slow(reason="9 runs of scripts, some until a limit")
@pytest.mark.parametrize("task, name, phase", CHOSEN)
def test_a_fault_ends_in_one_sentence_or_does_no_harm(campaign, task, name, phase):
    (fault,) = [fault for fault in FAULTS if (fault.task, fault.name) == (task, name)]
    try:
        report = campaign.run(fault, phase, workers=fault.workers[-1:])
    finally:
        shutil.rmtree(campaign.folder / "run", ignore_errors=True)
    assert report.workers and not report.failures, "\n".join(report.failures)


def test_the_full_campaign_is_large_enough():
    names = {(fault.task, fault.name) for fault in FAULTS}
    assert len(names) == len(FAULTS)
    assert sum(HARMLESS not in fault.expected.values() for fault in FAULTS) >= 40
