from .dropblock import DropBlock
from .hcgnet import ARCHITECTURES, Architecture, HCGNet
from .necks import DropoutNeck

__all__ = ["ARCHITECTURES", "Architecture", "DropBlock", "DropoutNeck", "HCGNet"]
