"""Run exported models with NumPy, Pillow and an engine, without PyTorch and the MM packages."""

from .drawing import draw
from .engines import Engine, RuntimeFileError, open_engine
from .predictor import Predictor

__all__ = ["Engine", "Predictor", "RuntimeFileError", "draw", "open_engine"]
