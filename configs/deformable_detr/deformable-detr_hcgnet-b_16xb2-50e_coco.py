_base_ = [
    "mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py",
    "../_base_/guards.py",
    "../_base_/models/hcgnet_b.py",
]

default_hooks = _base_.guards
train_cfg = _base_.loops.epochs

model = dict(
    backbone=dict(
        _base_.hcgnet_b.backbone,
        _delete_=True,
        out_indices=(1, 2, 3),
        norm_cfg=dict(type="BN", requires_grad=False),
    ),
    neck=dict(in_channels=_base_.hcgnet_b.channels[1:]),
)

# The rates are MMDetection's for 16 GPUs x 2 images: 2e-4 / 32 = 6.25e-6 an image, and a tenth of
# that in the backbone. 8 GPUs x 2 images: 1e-4.
auto_scale_lr = dict(enable=False, base_batch_size=32)

# A last batch of one image would have no batch statistics where norms are trained.
train_dataloader = dict(batch_sampler=dict(drop_last=True))
