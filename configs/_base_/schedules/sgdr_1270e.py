"""The paper's CIFAR schedule: SGDR as in sgdr_630e.py, with a seventh cycle."""

_base_ = "./sgdr_630e.py"

optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
param_scheduler = [
    dict(
        type="CosineRestartLR",
        by_epoch=True,
        periods=[10, 20, 40, 80, 160, 320, 640],
        restart_weights=[1] * 7,
        eta_min=0,
    )
]
auto_scale_lr = dict(base_batch_size=128)
train_cfg = dict(max_epochs=1270)
default_hooks = dict(checkpoint=dict(interval=10))
# The same numbers up to rounding, in some 0.6 of the time on a CPU.
custom_hooks = [dict(type="mmhcgnet.ChannelsLastHook", cpu_only=True)]
