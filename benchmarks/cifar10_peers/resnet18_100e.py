"""ResNet-18 with about the time that HCGNet-A1 has for 10 epochs."""

_base_ = "./resnet18_10e.py"

train_cfg = dict(max_epochs=100, val_interval=5)
param_scheduler = _base_.param_scheduler
param_scheduler[1].update(T_max=100, end=100)
