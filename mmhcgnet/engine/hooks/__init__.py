"""Hooks for configs, by the type ``mmhcgnet.<name>``."""

from .channels_last_hook import ChannelsLastHook
from .class_order_hook import ClassOrderHook
from .data_guard_hook import DataGuardHook
from .deploy_hook import DeployHook
from .dropblock_hook import DropBlockHook
from .image_name_hook import ImageNameHook
from .interrupt_hook import InterruptHook
from .log_guard_hook import LogGuardHook
from .non_finite_hook import NonFiniteHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .same_buffers_hook import SameBuffersHook
from .strict_load_hook import StrictLoadHook
from .untrained_norm_hook import UntrainedNormHook

__all__ = [
    "ChannelsLastHook",
    "ClassOrderHook",
    "DataGuardHook",
    "DeployHook",
    "DropBlockHook",
    "ImageNameHook",
    "InterruptHook",
    "LogGuardHook",
    "NonFiniteHook",
    "SafeCheckpointHook",
    "SameBuffersHook",
    "StrictLoadHook",
    "UntrainedNormHook",
]
