"""Mask R-CNN with HCGNet-B and FPN, the model of the paper's COCO recipe."""

_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

model = dict(
    backbone=dict(
        _delete_=True,
        type="mmhcgnet.HCGNet",
        arch="B",
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        init_cfg=dict(
            type="Pretrained",
            checkpoint="checkpoints/hcgnet-b_3rdparty_in1k.pth",
            prefix="backbone.",
        ),
    ),
    neck=dict(in_channels=[160, 368, 952, 1244]),
)
