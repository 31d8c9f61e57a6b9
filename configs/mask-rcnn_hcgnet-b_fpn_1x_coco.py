_base_ = [
    "./_base_/models/mask-rcnn_hcgnet-b_fpn.py",
    "./_base_/datasets/coco_instance.py",
    "./_base_/schedules/coco_1x.py",
]
