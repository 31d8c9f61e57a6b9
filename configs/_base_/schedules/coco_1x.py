"""The optimiser and schedule of the paper's COCO recipe."""

_base_ = "../mmdet_runtime.py"

# The released recipe has 0.005 on 2 GPUs x 2 images: 0.005 / 4 * 16 = 0.02 on 8 GPUs x 2 images.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.02, momentum=0.9, weight_decay=0.0001),
    clip_grad=dict(max_norm=35, norm_type=2),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
train_cfg = dict(max_epochs=12, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 3, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
