_base_ = ["./_base_/hcgnet_cifar100.py", "./_base_/sgdr_1270e.py"]
