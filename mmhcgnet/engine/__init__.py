"""What MMEngine runs, and models as configs describe them."""

from mmhcgnet.checkpoints import read_checkpoint, use_safe_loader

from .configs import load_config
from .deploy import switch_to_deploy
from .models import build_model, load_model

__all__ = [
    "build_model",
    "load_config",
    "load_model",
    "read_checkpoint",
    "switch_to_deploy",
    "use_safe_loader",
]
