from .architecture import ARCHITECTURES, Architecture
from .dropblock import DropBlock
from .hcgnet import HCGNet
from .necks import DropoutNeck
from .plugins import ForgetGatePlugin, MultiScaleExcitationPlugin

__all__ = [
    "ARCHITECTURES",
    "Architecture",
    "DropBlock",
    "DropoutNeck",
    "ForgetGatePlugin",
    "HCGNet",
    "MultiScaleExcitationPlugin",
]
