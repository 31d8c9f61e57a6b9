_base_ = [
    "mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py",
    "../_base_/guards.py",
    "../_base_/models/hcgnet_b.py",
]

default_hooks = _base_.guards
train_cfg = _base_.loops.iterations

model = dict(
    backbone=dict(
        _base_.hcgnet_b.backbone,
        _delete_=True,
        frozen_stages=-1,
        norm_cfg=dict(type="BN", requires_grad=False),
    ),
    panoptic_head=dict(in_channels=_base_.hcgnet_b.channels),
)

# The rates are MMDetection's for 8 GPUs x 2 images: 1e-4 / 16 = 6.25e-6 an image, and a tenth of
# that in the backbone. 50 epochs are 118,000 / 16 * 50 = 368,750 iterations.
auto_scale_lr = dict(enable=False, base_batch_size=16)

# A last batch of one image would have no batch statistics where norms are trained.
train_dataloader = dict(batch_sampler=dict(drop_last=True))
