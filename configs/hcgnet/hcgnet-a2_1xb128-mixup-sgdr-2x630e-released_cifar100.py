_base_ = ["./hcgnet-a2_1xb128-mixup-sgdr-2x630e_cifar100.py", "../_base_/models/released_cifar.py"]

model = _base_.released
custom_hooks = _base_.custom_hooks + _base_.released_hooks
