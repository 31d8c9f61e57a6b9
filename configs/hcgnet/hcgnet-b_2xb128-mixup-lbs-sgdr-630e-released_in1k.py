_base_ = ["./hcgnet-b_2xb128-mixup-lbs-sgdr-630e_in1k.py", "../_base_/models/released_in1k.py"]

model = _base_.released
