import os

import pytest
import torch
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader

from mmhcgnet.engine.configs import ops_lack_the_gpu

if ops_lack_the_gpu():
    # The tools' tests build detectors: on a CUDA device they would find no ops.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_default_scope():
    """A Runner or a config that is built sets MMEngine's scope for the rest of the process."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def _loader_of_mmengine(monkeypatch):
    """``use_safe_loader``, which the tools call, is for the rest of the process."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))
