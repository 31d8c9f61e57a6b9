"""Mask R-CNN with heads of a quarter of the usual width, from scratch on shapes, on a CPU.

Batches of 16, as the gates' batch norm sees one vector per image. What differs between the leaves
is the backbone.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "./shapes_instance.py",
    "./mmdet_runtime.py",
]

num_classes = 5
model = dict(
    neck=dict(out_channels=64, num_outs=4, norm_cfg=dict(type="BN")),
    rpn_head=dict(
        in_channels=64,
        feat_channels=64,
        # 12 pixels on stride 4: the smallest objects are some 9 pixels wide.
        anchor_generator=dict(scales=[3], strides=[4, 8, 16, 32]),
    ),
    # Norms, and boxes and masks that are the same for all classes: so few images teach more.
    # One sample in a bin of RoIAlign, as the bins are about as large as the maps' positions.
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=1)),
        bbox_head=dict(
            type="ConvFCBBoxHead",
            num_shared_convs=1,
            num_shared_fcs=1,
            in_channels=64,
            conv_out_channels=64,
            fc_out_channels=256,
            norm_cfg=dict(type="BN"),
            num_classes=num_classes,
            reg_class_agnostic=True,
        ),
        mask_roi_extractor=dict(out_channels=64, finest_scale=28, roi_layer=dict(sampling_ratio=1)),
        mask_head=dict(
            in_channels=64,
            conv_out_channels=64,
            num_convs=2,
            norm_cfg=dict(type="BN"),
            num_classes=num_classes,
            class_agnostic=True,
        ),
    ),
    train_cfg=dict(
        rpn_proposal=dict(nms_pre=300, max_per_img=100),
        rcnn=dict(sampler=dict(num=32, pos_fraction=0.25)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=300, max_per_img=100)),
)

# No loaders beside the two computing cores: a batch takes some 50 ms to load.
train_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader

max_epochs = 2
train_cfg = dict(type="mmhcgnet.ResumableEpochLoop", max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
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
