"""ResNet-50 under the same conditions, to compare with."""

_base_ = "./_base_/mask-rcnn_fpn-light_shapes.py"

model = dict(backbone=dict(frozen_stages=-1, norm_eval=False, init_cfg=None))
