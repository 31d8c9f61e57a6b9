"""HCGNet: gated convolutional networks with hybrid connectivity, for the MM toolboxes."""

from ._compat import check_dependencies

# Before all other imports: what follows imports mmengine and mmcv, and a missing or mixed
# installation should end in one clear sentence instead of a traceback from inside them.
check_dependencies()

from .engine.finite import NonFiniteHook  # noqa: E402
from .engine.hooks import ChannelsLastHook, DeployHook, DropBlockHook  # noqa: E402
from .engine.loading import DataGuardHook  # noqa: E402
from .engine.loops import ResumableEpochLoop, ResumableIterLoop  # noqa: E402
from .engine.saving import InterruptHook, SafeCheckpointHook  # noqa: E402
from .engine.strict_load import StrictLoadHook  # noqa: E402
from .model_index import register_classifiers  # noqa: E402
from .models import DropoutNeck, HCGNet  # noqa: E402
from .version import __version__  # noqa: E402

__all__ = [
    "ChannelsLastHook",
    "DataGuardHook",
    "DeployHook",
    "DropBlockHook",
    "DropoutNeck",
    "HCGNet",
    "InterruptHook",
    "NonFiniteHook",
    "ResumableEpochLoop",
    "ResumableIterLoop",
    "SafeCheckpointHook",
    "StrictLoadHook",
    "__version__",
]

register_classifiers()
