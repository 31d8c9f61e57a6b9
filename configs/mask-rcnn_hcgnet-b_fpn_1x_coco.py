_base_ = "./_base_/mask-rcnn_hcgnet-b_fpn_coco.py"

train_cfg = dict(type="mmhcgnet.ResumableEpochLoop", max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
