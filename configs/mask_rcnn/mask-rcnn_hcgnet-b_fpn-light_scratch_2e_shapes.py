_base_ = [
    "../_base_/models/mask-rcnn_fpn-light.py",
    "../_base_/datasets/shapes_instance_bs16.py",
    "../_base_/schedules/shapes_2e.py",
]

model = dict(
    backbone=dict(
        _delete_=True, type="mmhcgnet.HCGNet", arch="B", out_indices=(0, 1, 2, 3), init_cfg=None
    ),
    neck=dict(in_channels=[160, 368, 952, 1244]),
)
