"""Texts of tiny configs, which tests write into files and complete by what they are about."""

from __future__ import annotations


def hcgnet(
    depths: tuple[int, ...] = (1, 1),
    growth_rates: tuple[int, ...] = (8, 8),
    stem: str = "cifar",
    **options: object,
) -> str:
    """A backbone; the default has 24 and 20 maps."""
    arch = dict(depths=depths, growth_rates=growth_rates, stem=stem)
    return repr(dict(type="mmhcgnet.HCGNet", arch=arch, **options))


def classifier(
    backbone: str,
    channels: int,
    classes: int,
    mean: object = (127.5,) * 3,
    std: object = (127.5,) * 3,
    head: str = '"LinearClsHead"',
) -> str:
    """A classifier on pooled maps."""
    return f"""
default_scope = "mmpretrain"
data_preprocessor = dict(
    num_classes={classes}, mean={list(mean)}, std={list(std)}, to_rgb=True
)
model = dict(
    type="ImageClassifier",
    backbone={backbone},
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type={head}, num_classes={classes}, in_channels={channels}),
)
"""


def detector(
    backbone: str,
    channels: list[int],
    strides: list[int],
    mean: object = (127.5,) * 3,
    std: object = (127.5,) * 3,
) -> str:
    """A RetinaNet of two classes, with an anchor for each position."""
    return f"""
default_scope = "mmdet"
model = dict(
    type="RetinaNet",
    data_preprocessor=dict(
        type="DetDataPreprocessor",
        mean={list(mean)},
        std={list(std)},
        bgr_to_rgb=True,
        pad_size_divisor=32,
    ),
    backbone={backbone},
    neck=dict(type="FPN", in_channels={channels}, out_channels=8, num_outs={len(channels)}),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=2,
        in_channels=8,
        feat_channels=8,
        stacked_convs=1,
        anchor_generator=dict(
            type="AnchorGenerator", scales=[4], ratios=[1.0], strides={strides}
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder"),
    ),
    test_cfg=dict(nms_pre=10, max_per_img=5, nms=dict(type="nms", iou_threshold=0.5)),
)
"""
