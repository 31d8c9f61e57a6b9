"""The paper's ImageNet schedule: SGDR (Loshchilov and Hutter, ICLR 2017) with six cycles.

In a cycle of T epochs, epoch t = 0, ..., T - 1 has the rate 0.1 * (1 + cos(pi * t / T)) / 2. The
cycles double in length, from T_0 = 10; the run ends with its last cycle.
"""

_base_ = "../mmpretrain_runtime.py"

optim_wrapper = dict(
    type="OptimWrapper",
    # Nesterov is the released code's; the paper says momentum. The decay holds for norms and
    # biases, too.
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=4e-5),
)
param_scheduler = [
    dict(
        type="CosineRestartLR",
        by_epoch=True,
        periods=[10, 20, 40, 80, 160, 320],
        restart_weights=[1] * 6,
        eta_min=0,
    )
]
# 2 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=256)
# Every cycle ends at a multiple of ten epochs.
train_cfg = dict(max_epochs=630, val_interval=10)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="auto"))
