"""The CIFAR-10 recipe for a CPU in 10 epochs, with one cosine."""

_base_ = "../../configs/hcgnet/hcgnet-a1_1xb128-sgdr-28e_cifar10-folders.py"

train_cfg = dict(max_epochs=10, val_interval=1)
param_scheduler = _base_.param_scheduler[:2]
param_scheduler[1].update(T_max=10, end=10)
