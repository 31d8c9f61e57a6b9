"""No pretrained weights: everything is trained, with synchronised norms and a long schedule.

After He et al., Rethinking ImageNet Pre-training, ICCV 2019: norms in neck and heads too, and six
times the epochs. On one GPU with few images, batch statistics are poor: raise the batch size.
"""

_base_ = "../mask-rcnn_hcgnet-b_fpn_1x_coco.py"

norm_cfg = dict(type="SyncBN", requires_grad=True)
model = dict(
    backbone=dict(frozen_stages=-1, norm_eval=False, norm_cfg=norm_cfg, init_cfg=None),
    neck=dict(norm_cfg=norm_cfg),
    roi_head=dict(
        bbox_head=dict(type="Shared4Conv1FCBBoxHead", conv_out_channels=256, norm_cfg=norm_cfg),
        mask_head=dict(norm_cfg=norm_cfg),
    ),
)

train_cfg = dict(max_epochs=72, val_interval=6)
param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=72, milestones=[65, 71], gamma=0.1),
]
