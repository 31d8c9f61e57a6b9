_base_ = ["./_base_/hcgnet_in1k.py", "./_base_/sgdr_630e.py"]
