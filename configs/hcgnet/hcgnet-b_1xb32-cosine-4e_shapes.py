"""HCGNet-B classifies the built-in shapes, from scratch and on a CPU.

The data: python tools/dataset_converters/make_shapes.py --classification
"""

_base_ = ["../_base_/datasets/shapes_classification.py", "../_base_/mmpretrain_runtime.py"]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmhcgnet.HCGNet", arch="B"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=5, in_channels=1244),
)

optim_wrapper = dict(
    type="OptimWrapper",
    # At 0.005 nothing was learnt in our trial.
    optimizer=dict(type="AdamW", lr=0.001, betas=(0.9, 0.98), weight_decay=0.05),
)
auto_scale_lr = dict(enable=False, base_batch_size=32)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=30),
    dict(
        type="CosineAnnealingLR",
        T_max=4,
        begin=0,
        end=4,
        by_epoch=True,
        convert_to_iter_based=True,
    ),
]
train_cfg = dict(max_epochs=4, val_interval=1)
default_hooks = dict(logger=dict(interval=20))
custom_hooks = [dict(type="mmhcgnet.ChannelsLastHook")]
randomness = dict(seed=0)
