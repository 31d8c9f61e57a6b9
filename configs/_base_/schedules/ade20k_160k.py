"""MMSegmentation's schedule of 160,000 iterations, written out."""

_base_ = "../mmseg_runtime.py"

# The rate is MMSegmentation's for 4 GPUs x 4 images: 0.01 / 16 = 0.000625 an image.
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.01, momentum=0.9, weight_decay=0.0005),
    clip_grad=None,
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
# 160,000 iterations of 16 of the 20,210 images: 126.7 epochs.
train_cfg = dict(max_iters=160000, val_interval=16000)
param_scheduler = [
    dict(type="PolyLR", eta_min=1e-4, power=0.9, begin=0, end=160000, by_epoch=False)
]
