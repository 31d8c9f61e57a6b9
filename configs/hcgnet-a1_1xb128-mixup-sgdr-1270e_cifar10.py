_base_ = ["./_base_/hcgnet_cifar10.py", "./_base_/sgdr_1270e.py"]
