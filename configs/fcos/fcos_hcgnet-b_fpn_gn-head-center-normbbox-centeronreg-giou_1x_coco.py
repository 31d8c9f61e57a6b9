_base_ = [
    "mmdet::fcos/fcos_r50-caffe_fpn_gn-head-center-normbbox-centeronreg-giou_1x_coco.py",
    "../_base_/guards.py",
    "../_base_/models/hcgnet_b.py",
]

default_hooks = _base_.guards
train_cfg = _base_.loops.epochs

# The base's images are for weights of Caffe; those of ImageNet's HCGNet are RGB and normalised.
model = dict(
    data_preprocessor=dict(
        mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], bgr_to_rgb=True
    ),
    backbone=dict(
        _base_.hcgnet_b.backbone, _delete_=True, norm_cfg=dict(type="BN", requires_grad=False)
    ),
    neck=dict(in_channels=_base_.hcgnet_b.channels),
)

# The rate is MMDetection's for 8 GPUs x 2 images: 0.01 / 16 = 0.000625 an image.
auto_scale_lr = dict(enable=False, base_batch_size=16)

# A last batch of one image would have no batch statistics where norms are trained.
train_dataloader = dict(batch_sampler=dict(drop_last=True))
