"""The paper's detector as it was trained and measured, with MMDetection 1.x.

Legacy anchors, box coder with the +1 convention, RoIAlign not aligned, SmoothL1 and no anchors
across the border in the RPN: for the authors' detector, converted by
tools/model_converters/official_to_mmdet.py. New detectors are better trained with
mask-rcnn_hcgnet-b_fpn_1x_coco.py.
"""

_base_ = "../mask-rcnn_hcgnet-b_fpn_1x_coco.py"

# The values of mmdet::legacy_1.x/mask-rcnn_r50_fpn_1x_coco_v1.py, but for allowed_border.
box_coder = dict(type="LegacyDeltaXYWHBBoxCoder")
roi_extractor = dict(roi_layer=dict(sampling_ratio=2, aligned=False))
model = dict(
    backbone=dict(weight_init="pytorch"),
    rpn_head=dict(
        anchor_generator=dict(type="LegacyAnchorGenerator", center_offset=0.5),
        bbox_coder=box_coder,
        loss_bbox=dict(type="SmoothL1Loss", beta=1 / 9),
    ),
    roi_head=dict(
        bbox_roi_extractor=roi_extractor,
        mask_roi_extractor=roi_extractor,
        bbox_head=dict(bbox_coder=box_coder, loss_bbox=dict(type="SmoothL1Loss", beta=1.0)),
    ),
    train_cfg=dict(
        rpn=dict(allowed_border=0),
        rpn_proposal=dict(max_per_img=2000),
        rcnn=dict(assigner=dict(match_low_quality=True)),
    ),
)
