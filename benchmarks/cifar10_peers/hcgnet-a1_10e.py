"""The CIFAR-10 recipe for a CPU in 10 epochs."""

_base_ = "../../configs/hcgnet/hcgnet-a1_1xb128-cosine-16e_cifar10-folders.py"

max_epochs = 10
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=200),
    dict(
        type="CosineAnnealingLR",
        T_max=max_epochs,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=1)
