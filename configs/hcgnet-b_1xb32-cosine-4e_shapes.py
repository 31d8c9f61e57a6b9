"""HCGNet-B tells the built-in shapes apart, from scratch and on a CPU.

The data: python tools/dataset_converters/make_shapes.py --classification
"""

_base_ = "./_base_/mmpretrain_runtime.py"

num_classes = 5
data_preprocessor = dict(
    num_classes=num_classes,
    mean=[123.675, 116.28, 103.53],
    std=[58.395, 57.12, 57.375],
    to_rgb=True,
)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmhcgnet.HCGNet", arch="B"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=num_classes, in_channels=1244),
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=64),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=64),
    dict(type="PackInputs"),
]
# No loaders beside the two computing cores.
train_dataloader = dict(
    batch_size=32,
    num_workers=0,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CustomDataset",
        data_root="data/shapes/classification",
        data_prefix="train",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        data_root="data/shapes/classification",
        data_prefix="val",
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator

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
train_cfg = dict(type="mmhcgnet.ResumableEpochLoop", max_epochs=4, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(logger=dict(interval=20))
custom_hooks = [dict(type="mmhcgnet.ChannelsLastHook")]
randomness = dict(seed=0)
