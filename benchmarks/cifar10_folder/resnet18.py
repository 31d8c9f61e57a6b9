"""MMPretrain's ResNet-18 for CIFAR at HCGNet-A1's size, with the epochs that A1's time holds."""

_base_ = "./hcgnet-a1.py"

model = dict(
    backbone=dict(_delete_=True, type="ResNet_CIFAR", depth=18, base_channels=20, stem_channels=20),
    head=dict(in_channels=160),
)

iterations_an_epoch = 45000 // 128
param_scheduler = [dict(type="CosineAnnealingLR", T_max=18 * iterations_an_epoch, by_epoch=False)]
train_cfg = dict(max_iters=18 * iterations_an_epoch, val_interval=iterations_an_epoch)
