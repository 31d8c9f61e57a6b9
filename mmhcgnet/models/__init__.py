from .architecture import ARCHITECTURES, Architecture
from .dropblock import DropBlock
from .hcgnet import HCGNet
from .necks import DropoutNeck

__all__ = ["ARCHITECTURES", "Architecture", "DropBlock", "DropoutNeck", "HCGNet"]
