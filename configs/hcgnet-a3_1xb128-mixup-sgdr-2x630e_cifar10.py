_base_ = ["./_base_/hcgnet_cifar10.py", "./_base_/sgdr_2x630e.py"]

model = dict(backbone=dict(arch="A3"), head=dict(in_channels=1374))
