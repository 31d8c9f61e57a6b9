_base_ = "./_base_/mask-rcnn_fpn-light_shapes.py"

model = dict(
    backbone=dict(
        _delete_=True, type="mmhcgnet.HCGNet", arch="B", out_indices=(0, 1, 2, 3), init_cfg=None
    ),
    neck=dict(in_channels=[160, 368, 952, 1244]),
)
