"""Pure maps of names and shapes between the authors' checkpoints and ours; no files are opened."""

from .classification import mmpretrain_to_official, official_to_mmpretrain
from .detection import official_to_mmdet
from .matching import Converted, LayoutError

__all__ = [
    "Converted",
    "LayoutError",
    "mmpretrain_to_official",
    "official_to_mmdet",
    "official_to_mmpretrain",
]
