"""A checkpoint is data: opened once, verified, and asked; written whole or not at all."""

from .checkpoint import Checkpoint
from .durable_files import write_atomically
from .reading import encode_checkpoint, read_checkpoint
from .sources import use_safe_loader

__all__ = [
    "Checkpoint",
    "encode_checkpoint",
    "read_checkpoint",
    "use_safe_loader",
    "write_atomically",
]
