from .hcgnet import ARCHITECTURES, Architecture, HCGNet

__all__ = ["ARCHITECTURES", "Architecture", "HCGNet"]
