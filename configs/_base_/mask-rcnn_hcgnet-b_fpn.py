"""Mask R-CNN with HCGNet-B and FPN: the model and the optimiser of the paper's COCO recipe."""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "./mmdet_runtime.py",
]

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

# The released recipe has 0.005 on 2 GPUs x 2 images: 0.005 / 4 * 16 = 0.02 on 8 GPUs x 2 images.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001),
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)

val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
