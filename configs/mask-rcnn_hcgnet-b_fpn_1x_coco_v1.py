"""The paper's detector as it was trained and measured, with MMDetection 1.x.

Legacy anchors, box coder with the +1 convention, RoIAlign not aligned, SmoothL1 in the RPN: for
the authors' detector, converted by tools/model_converters/official_to_mmdet.py. New detectors are
better trained with mask-rcnn_hcgnet-b_fpn_1x_coco.py.
"""

# A base may not have a dot in its first folder, as in mmdet::legacy_1.x/…
_base_ = ["mmdet::_base_/../legacy_1.x/mask-rcnn_r50_fpn_1x_coco_v1.py", "./_base_/guards.py"]

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
optim_wrapper = dict(optimizer=dict(lr=0.02), clip_grad=dict(max_norm=35, norm_type=2))
param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]

# A last batch of one image would have no batch statistics where norms are trained.
train_dataloader = dict(batch_sampler=dict(drop_last=True))

train_cfg = dict(type="mmhcgnet.ResumableEpochLoop")
default_hooks = _base_.guards
