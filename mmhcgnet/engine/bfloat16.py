"""Mixed precision in bfloat16, on a CPU as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from mmengine.optim import OptimWrapper
from mmengine.registry import OPTIM_WRAPPERS
from mmengine.runner.amp import autocast
from torch import nn


@OPTIM_WRAPPERS.register_module()
class BFloat16OptimWrapper(OptimWrapper):
    """Train in mixed precision of bfloat16 on any device, without a loss scale.

    MMEngine's ``AmpOptimWrapper`` refuses CPUs. Weights and the optimizer's state stay fp32, and
    checkpoints are those of ``OptimWrapper``. Worth it on processors with units for it (AMX or
    ``avx512_bf16``). ::

        optim_wrapper = dict(type="mmhcgnet.BFloat16OptimWrapper", optimizer=...)
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Compute the loss of ``model`` under autocast."""
        with super().optim_context(model), autocast(dtype=torch.bfloat16):
            yield
