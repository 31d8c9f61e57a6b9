"""Fine-tuning: from a detector trained on COCO to a data set with other classes.

For your own data: copy this file, replace the data set base (its images are resized to 96 pixels),
and set ``num_classes`` in both heads and ``metainfo`` in every data set. The heads' class layers
have other shapes than in the checkpoint and start from scratch.

What you have decides what to start from:

- a detector trained here: ``load_from`` names it, as below after
  ``python tools/train.py configs/mask-rcnn_hcgnet-b_fpn_1x_coco.py``;
- the authors' converted detector: ``load_from="checkpoints/mask-rcnn_hcgnet-b_fpn_1x_coco_v1.pth"``
  and ``--replace rpn_head roi_head``, as these are for the anchors and boxes of MMDetection 1.x;
- a backbone from ImageNet: ``load_from=None``, and without ``init_cfg=None`` in the backbone;
- nothing: ``load_from=None``, ``frozen_stages=-1`` and ``norm_eval=False`` in the backbone, and as
  many images a GPU and epochs as you can; ``mask-rcnn_hcgnet-b_fpn_syncbn-all_scratch_6x_coco.py``
  is such a recipe. With frozen norms, whose statistics nothing has estimated, the deep maps fade.
"""

_base_ = [
    "../_base_/models/mask-rcnn_hcgnet-b_fpn.py",
    "../_base_/datasets/shapes_instance.py",
    "../_base_/schedules/coco_1x.py",
]

load_from = "work_dirs/mask-rcnn_hcgnet-b_fpn_1x_coco/epoch_12.pth"

num_classes = 5
model = dict(
    backbone=dict(init_cfg=None),  # the detector's checkpoint holds the backbone
    roi_head=dict(bbox_head=dict(num_classes=num_classes), mask_head=dict(num_classes=num_classes)),
)

# COCO's 0.02 for 16 images is 0.00125 an image. With 2 images on each GPU:
# 1 GPU 0.0025, 2 GPUs 0.005, 8 GPUs 0.02 (or --auto-scale-lr).
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(optimizer=dict(lr=0.0025))
auto_scale_lr = dict(base_batch_size=2)

param_scheduler = [
    dict(type="LinearLR", start_factor=1 / 3, by_epoch=False, begin=0, end=100),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[8, 11], gamma=0.1),
]
default_hooks = dict(
    strict_load=dict(
        replaced=[
            "roi_head.bbox_head.fc_cls",
            "roi_head.bbox_head.fc_reg",
            "roi_head.mask_head.conv_logits",
        ]
    )
)
