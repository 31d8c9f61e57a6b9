"""Mask R-CNN with heads of a quarter of the usual width, for the built-in shapes and a CPU."""

_base_ = "mmdet::_base_/models/mask-rcnn_r50_fpn.py"

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
