"""Two epochs of the built-in shapes for detectors, on a CPU."""

_base_ = "../mmdet_runtime.py"

max_epochs = 2
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
optim_wrapper = dict(
    type="OptimWrapper",
    # 524 steps in all: a second moment of 1,000 steps' memory would lag behind.
    optimizer=dict(type="AdamW", lr=0.005, betas=(0.9, 0.98), weight_decay=0.05, fused=True),
    clip_grad=dict(max_norm=10, norm_type=2),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=30),
    dict(
        type="CosineAnnealingLR",
        T_max=max_epochs,
        begin=0,
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
custom_hooks = [dict(type="mmhcgnet.ChannelsLastHook")]
auto_scale_lr = dict(enable=False, base_batch_size=16)
randomness = dict(seed=0)
