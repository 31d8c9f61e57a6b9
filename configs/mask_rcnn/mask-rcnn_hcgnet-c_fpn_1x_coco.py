_base_ = "../mask-rcnn_hcgnet-b_fpn_1x_coco.py"

model = dict(
    backbone=dict(arch="C", init_cfg=dict(checkpoint="checkpoints/hcgnet-c_3rdparty_in1k.pth")),
    neck=dict(in_channels=[352, 848, 1720, 2428]),
)
