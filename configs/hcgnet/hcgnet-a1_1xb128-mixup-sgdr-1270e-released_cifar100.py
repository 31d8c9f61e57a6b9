_base_ = ["./hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar100.py", "../_base_/models/released_cifar.py"]

model = _base_.released
custom_hooks = _base_.custom_hooks + _base_.released_hooks
