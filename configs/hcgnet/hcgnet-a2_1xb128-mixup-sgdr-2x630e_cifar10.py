_base_ = [
    "../_base_/models/hcgnet_cifar.py",
    "../_base_/datasets/cifar10.py",
    "../_base_/schedules/sgdr_2x630e.py",
]

model = dict(backbone=dict(arch="A2"), head=dict(in_channels=716))
