"""All processes validate one model: the one that is saved."""

from __future__ import annotations

from mmengine.dist import broadcast, get_world_size
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmengine.runner import Runner


@HOOKS.register_module()
class SameBuffersHook(Hook):
    """Before a validation, give all processes the buffers of the first one, which is the one saved.

    A plain batch norm estimates its running statistics in each process by itself. Without this,
    each would validate its part of the images with other statistics, and the metrics in the log and
    of the best checkpoint would not be those of any file. The statistics of the first process are
    taken, as PyTorch's DistributedDataParallel does by default, and not an average: what is saved
    is the same at any time, and a run that is resumed from it goes on exactly.
    """

    # After EMAHook, which gives the model the averaged weights.
    priority = "LOW"

    def before_val_epoch(self, runner: Runner) -> None:
        """Send them."""
        if get_world_size() > 1:
            for buffer in runner.model.buffers():
                broadcast(buffer.data, src=0)
