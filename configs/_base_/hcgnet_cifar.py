"""HCGNet-A1 by the paper's CIFAR recipe, without the data set and the schedule."""

_base_ = "./mmpretrain_runtime.py"

model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmhcgnet.HCGNet", arch="A1"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", in_channels=414),
    train_cfg=dict(augments=dict(type="Mixup", alpha=1.0)),
)

optim_wrapper = dict(
    type="OptimWrapper",
    # Nesterov is the released code's; the paper says momentum. The decay holds for norms and
    # biases, too.
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=1e-4),
)
auto_scale_lr = dict(enable=False, base_batch_size=128)
default_hooks = dict(checkpoint=dict(interval=10, max_keep_ckpts=3, save_best="auto"))
