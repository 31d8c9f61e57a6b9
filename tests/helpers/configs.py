"""Texts of tiny configs, which tests write into files and complete by what they are about."""

from __future__ import annotations

from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"


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


_TINY = """
        _delete_=True,
        type="mmhcgnet.HCGNet",
        arch=dict(depths=[1] * 4, growth_rates=[8] * 4),
"""


def shapes_classifier(pipeline: str = "") -> str:
    """The config of the classifier of shapes with a tiny network; perhaps other test transforms."""
    config = f"""
_base_ = "{CONFIGS}/hcgnet/hcgnet-b_1xb32-cosine-4e_shapes.py"
model = dict(backbone=dict({_TINY}), head=dict(in_channels=23))
"""
    if not pipeline:
        return config
    return f"""{config}
test_pipeline = [
    dict(type="LoadImageFromFile"),
    {pipeline},
    dict(type="PackInputs"),
]
test_dataloader = dict(dataset=dict(pipeline=test_pipeline))
"""


def shapes_detector(test_cfg: str = "") -> str:
    """The config of the detector of the demo with a tiny network."""
    return f"""
_base_ = "{CONFIGS}/mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
model = dict(
    backbone=dict({_TINY}        out_indices=(0, 1, 2, 3)),
    neck=dict(in_channels=[72, 44, 30, 23]),
    test_cfg=dict({test_cfg}),
)
"""
