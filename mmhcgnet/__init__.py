"""HCGNet: gated convolutional networks with hybrid connectivity, for the MM toolboxes."""

from ._compat import check_dependencies

# Before all other imports: what follows imports mmengine and mmcv, and a missing or mixed
# installation should end in one clear sentence instead of a traceback from inside them.
check_dependencies()

from .checkpoints.sources import read_safetensors  # noqa: E402
from .engine.adapt import adapt_config  # noqa: E402
from .engine.bfloat16 import BFloat16OptimWrapper  # noqa: E402
from .engine.hooks import (  # noqa: E402
    ChannelsLastHook,
    ClassOrderHook,
    DataGuardHook,
    DeployHook,
    DropBlockHook,
    ImageNameHook,
    InterruptHook,
    LogGuardHook,
    NonFiniteHook,
    SafeCheckpointHook,
    SameBuffersHook,
    StrictLoadHook,
    UntrainedNormHook,
)
from .engine.layer_decay import LayerDecayConstructor  # noqa: E402
from .engine.runner import QuietRunner, ResumableEpochLoop, ResumableIterLoop  # noqa: E402
from .model_index import register_classifiers  # noqa: E402
from .models import (  # noqa: E402
    DropoutNeck,
    ForgetGatePlugin,
    HCGNet,
    MultiScaleExcitationPlugin,
)
from .version import __version__  # noqa: E402

__all__ = [
    "BFloat16OptimWrapper",
    "ChannelsLastHook",
    "ClassOrderHook",
    "DataGuardHook",
    "DeployHook",
    "DropBlockHook",
    "DropoutNeck",
    "ForgetGatePlugin",
    "HCGNet",
    "ImageNameHook",
    "InterruptHook",
    "LayerDecayConstructor",
    "LogGuardHook",
    "MultiScaleExcitationPlugin",
    "NonFiniteHook",
    "QuietRunner",
    "ResumableEpochLoop",
    "ResumableIterLoop",
    "SafeCheckpointHook",
    "SameBuffersHook",
    "StrictLoadHook",
    "UntrainedNormHook",
    "__version__",
    "adapt_config",
]

read_safetensors()
register_classifiers()
