_base_ = [
    "../_base_/models/hcgnet_cifar.py",
    "../_base_/datasets/cifar100.py",
    "../_base_/schedules/sgdr_2x630e.py",
]

model = dict(backbone=dict(arch="A3"), head=dict(num_classes=100, in_channels=1374))
