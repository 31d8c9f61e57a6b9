"""HCGNet-B for detectors and segmentors, and the channels of its four maps.

A config that inherits a toolbox's puts it in place of the ResNet:
``model = dict(backbone=dict(_base_.hcgnet_b.backbone, _delete_=True))``.
"""

hcgnet_b = dict(
    backbone=dict(
        type="mmhcgnet.HCGNet",
        arch="B",
        out_indices=(0, 1, 2, 3),
        norm_eval=True,
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        init_cfg=dict(
            type="Pretrained",
            checkpoint="checkpoints/hcgnet-b_3rdparty_in1k.pth",
            prefix="backbone.",
        ),
    ),
    channels=[160, 368, 952, 1244],
)
