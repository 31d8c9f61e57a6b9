_base_ = [
    "../_base_/models/hcgnet_in1k.py",
    "../_base_/datasets/imagenet.py",
    "../_base_/schedules/sgdr_630e.py",
]
