_base_ = [
    "../_base_/models/hcgnet_cifar.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/sgdr_1270e.py",
]
