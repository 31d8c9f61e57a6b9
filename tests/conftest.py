import os

import pytest
import torch

from mmhcgnet.engine import ops_lack_the_gpu

if ops_lack_the_gpu():
    # The tools' tests build detectors: on a CUDA device they would find no ops.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
