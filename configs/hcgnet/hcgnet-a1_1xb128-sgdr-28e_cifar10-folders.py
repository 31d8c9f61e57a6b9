"""HCGNet-A1 on CIFAR-10 in 28 epochs, for a CPU: two cosine cycles, no mixup. The recipe is ours.

The decay is five times the paper's, whose training is 45 times as long.
"""

_base_ = [
    "../_base_/models/hcgnet_cifar.py",
    "../_base_/datasets/cifar10_folders.py",
    "../_base_/mmpretrain_runtime.py",
]

model = dict(train_cfg=dict(_delete_=True))

optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
)
auto_scale_lr = dict(enable=False, base_batch_size=128)
cycles = (16, 12)
max_epochs = sum(cycles)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=200),
    dict(
        type="CosineAnnealingLR",
        T_max=cycles[0],
        begin=0,
        end=cycles[0],
        by_epoch=True,
        convert_to_iter_based=True,
    ),
    dict(
        type="CosineRestartLR",
        periods=[cycles[1]],
        restart_weights=[0.5],
        eta_min=0,
        begin=cycles[0],
        end=max_epochs,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=max_epochs, val_interval=4)
default_hooks = dict(logger=dict(interval=39), checkpoint=dict(max_keep_ckpts=2, save_best="auto"))
custom_hooks = [dict(type="mmhcgnet.ChannelsLastHook")]
randomness = dict(seed=0)
