"""Hooks for configs, by the type ``mmhcgnet.<name>``."""

from .channels_last_hook import ChannelsLastHook
from .data_guard_hook import DataGuardHook
from .deploy_hook import DeployHook
from .dropblock_hook import DropBlockHook
from .interrupt_hook import InterruptHook
from .non_finite_hook import NonFiniteHook
from .safe_checkpoint_hook import SafeCheckpointHook
from .strict_load_hook import StrictLoadHook

__all__ = [
    "ChannelsLastHook",
    "DataGuardHook",
    "DeployHook",
    "DropBlockHook",
    "InterruptHook",
    "NonFiniteHook",
    "SafeCheckpointHook",
    "StrictLoadHook",
]
