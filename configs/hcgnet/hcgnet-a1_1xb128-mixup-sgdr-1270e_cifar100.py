_base_ = [
    "../_base_/models/hcgnet_cifar.py",
    "../_base_/datasets/cifar100.py",
    "../_base_/schedules/sgdr_1270e.py",
]

model = dict(head=dict(num_classes=100))
