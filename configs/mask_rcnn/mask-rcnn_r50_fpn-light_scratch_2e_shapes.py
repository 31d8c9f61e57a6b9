"""ResNet-50 under the same conditions, to compare with."""

_base_ = [
    "../_base_/models/mask-rcnn_fpn-light.py",
    "../_base_/datasets/shapes_instance_bs16.py",
    "../_base_/schedules/shapes_2e.py",
]

model = dict(backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None))
