_base_ = [
    "mmdet::faster_rcnn/faster-rcnn_r50_fpn_1x_coco.py",
    "../_base_/guards.py",
    "../_base_/models/hcgnet_b.py",
]

default_hooks = _base_.guards
train_cfg = _base_.loops.epochs

model = dict(
    backbone=dict(_base_.hcgnet_b.backbone, _delete_=True),
    neck=dict(in_channels=_base_.hcgnet_b.channels),
)

# The rate is MMDetection's for 8 GPUs x 2 images: 0.02 / 16 = 0.00125 an image, which is also that
# of the paper's Mask R-CNN (0.005 for 2 GPUs x 2 images).
auto_scale_lr = dict(enable=False, base_batch_size=16)

# A last batch of one image would have no batch statistics where norms are trained.
train_dataloader = dict(batch_sampler=dict(drop_last=True))
