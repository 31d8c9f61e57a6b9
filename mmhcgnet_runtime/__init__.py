"""Run exported models with NumPy, Pillow and an engine, without PyTorch and the MM packages."""

from .engines import Engine, RuntimeFileError, open_engine
from .predictor import Predictor

__all__ = ["Engine", "Predictor", "RuntimeFileError", "open_engine"]
