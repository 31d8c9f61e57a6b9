"""MMPretrain's ResNet-18 for CIFAR at HCGNet-A1's size, by the same recipe."""

_base_ = "./hcgnet-a1_10e.py"

model = dict(
    backbone=dict(_delete_=True, type="ResNet_CIFAR", depth=18, base_channels=20, stem_channels=20),
    head=dict(in_channels=160),
)
