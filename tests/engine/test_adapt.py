"""HCGNet in the place of the ResNet of the toolboxes' own configs.

That the models run is for ``campaigns/sweep.py``, of which ``tests/campaigns`` has a small version.
"""

import copy
import warnings

import pytest
from mmengine.config import Config

from mmhcgnet import adapt_config
from mmhcgnet.engine.adapt import write_child
from mmhcgnet.engine.configs import load_config, shipped_config
from mmhcgnet.errors import UsageError
from mmhcgnet.models import HCGNet

NEW = [160, 368, 952, 1244]
BN = dict(type="BN", requires_grad=True)


def shipped(name: str) -> Config:
    pytest.importorskip(name.partition("::")[0])
    return load_config(shipped_config(name))


def resnet(**kwargs: object) -> dict:
    return dict(type="ResNet", depth=50, **kwargs)


def config(scope: str = "mmdet", **model: object) -> Config:
    return Config(dict(default_scope=scope, model=dict(model)))


def adapt(cfg: Config, **kwargs: object) -> tuple[dict, list[str]]:
    """The adapted model, and what was lost."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        adapted, report = adapt_config(cfg, **kwargs)
    return adapted.model, report.losses


def test_a_detector_with_an_fpn():
    cfg = shipped("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    before = copy.deepcopy(cfg.to_dict())
    adapted, report = adapt_config(cfg)
    assert cfg.to_dict() == before
    assert adapted.model.backbone.to_dict() == dict(
        type="mmhcgnet.HCGNet",
        arch="B",
        out_indices=(0, 1, 2, 3),
        frozen_stages=1,
        norm_eval=True,
        norm_cfg=BN,
    )
    assert adapted.model.neck.in_channels == NEW
    adapted.model.backbone, adapted.model.neck.in_channels = cfg.model.backbone, [1]
    cfg.model.neck.in_channels = [1]
    assert adapted.to_dict() == cfg.to_dict()
    assert not report.losses
    assert "model.neck.in_channels: [256, 512, 1024, 2048] -> [160, 368, 952, 1244]" in str(report)
    assert str(report).startswith('model.backbone: ResNet-50 -> dict(type="mmhcgnet.HCGNet"')


def test_arguments_come_before_the_configs():
    cfg = shipped("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    model, _ = adapt(cfg, arch="C", pretrained="c.pth", frozen_stages=-1, with_cp=True)
    backbone = model.backbone
    assert (backbone.arch, backbone.frozen_stages, backbone.with_cp) == ("C", -1, True)
    assert backbone.init_cfg == dict(type="Pretrained", checkpoint="c.pth", prefix="backbone.")
    assert model.neck.in_channels == [352, 848, 1720, 2428]
    assert model.neck.in_channels == list(HCGNet("C", out_indices=(0, 1, 2, 3)).out_channels)


def test_frozen_random_weights_are_mentioned():
    cfg = shipped("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    mention = "frozen_stages=1 freezes random ones"
    assert mention in str(adapt_config(cfg)[1])
    for kwargs in (dict(pretrained="b.pth"), dict(frozen_stages=-1)):
        assert mention not in str(adapt_config(cfg, **kwargs)[1])


def test_another_output_stride_than_the_configs():
    model, _ = adapt(segmenter(decode_head=head(2048, 3)), output_stride=16)
    assert model.backbone.output_stride == 16 and "strides" not in model.backbone
    model, _ = adapt(segmenter(decode_head=head(2048, 3)), strides=(1, 2, 2, 1))
    assert "output_stride" not in model.backbone


def test_the_levels_of_a_config_stay():
    """DETR's are 8 to 64, the last one made by the neck."""
    model, _ = adapt(shipped("mmdet::deformable_detr/deformable-detr_r50_16xb2-50e_coco.py"))
    assert model.backbone.out_indices == (1, 2, 3)
    assert (model.neck.in_channels, model.neck.num_outs) == (NEW[1:], 4)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("libra_rcnn/libra-faster-rcnn_r50_fpn_1x_coco.py", [NEW, 256]),
        ("dyhead/atss_r50_fpn_dyhead_1x_coco.py", [NEW, 256]),
    ],
)
def test_of_a_list_of_necks_the_first_reads_the_backbone(name, channels):
    model, _ = adapt(shipped(f"mmdet::{name}"))
    assert [neck.in_channels for neck in model.neck] == channels


def test_nested_models():
    model, _ = adapt(
        shipped("mmdet::soft_teacher/soft-teacher_faster-rcnn_r50-caffe_fpn_180k_semi-0.1-coco.py")
    )
    assert model.detector.backbone.type == "mmhcgnet.HCGNet"
    assert model.detector.neck.in_channels == NEW
    model, _ = adapt(
        shipped(
            "mmdet::strongsort/strongsort_yolox_x_8xb4-80e_crowdhuman-mot17halftrain"
            "_test-mot17halfval.py"
        )  # fmt: skip
    )
    assert model.reid.backbone.out_indices == (3,)
    assert model.reid.head.in_channels == NEW[3]
    assert "in_channels" not in model.reid.neck


def test_teacher_and_student_have_necks_of_their_own():
    model, _ = adapt(shipped("mmdet::lad/lad_r50-paa-r101_fpn_2xb8_coco_1x.py"))
    assert model.backbone.type == model.teacher_backbone.type == "mmhcgnet.HCGNet"
    assert model.neck.in_channels == model.teacher_neck.in_channels == NEW


def test_a_head_without_a_neck():
    model, _ = adapt(shipped("mmdet::mask2former/mask2former_r50_8xb2-lsj-50e_coco.py"))
    assert model.panoptic_head.in_channels == NEW
    model, _ = adapt(shipped("mmdet::rpn/rpn_r50-caffe-c4_1x_coco.py"))
    assert model.neck is None
    assert (model.rpn_head.in_channels, model.rpn_head.feat_channels) == (NEW[2], 1024)
    model, _ = adapt(shipped("mmdet::yolof/yolof_r50-c5_8xb8-1x_coco.py"))
    assert model.neck.in_channels == NEW[3]


def test_a_head_on_rois_that_is_a_stage_of_resnet_gets_its_channels():
    model, _ = adapt(shipped("mmdet::faster_rcnn/faster-rcnn_r50-caffe_c4-1x_coco.py"))
    assert model.backbone.out_indices == (2,)
    assert model.neck.type == "ChannelMapper"
    assert (model.neck.in_channels, model.neck.out_channels) == ([NEW[2]], 1024)
    assert model.roi_head.bbox_roi_extractor.out_channels == 1024


def test_a_dilated_last_stage():
    model, _ = adapt(shipped("mmdet::faster_rcnn/faster-rcnn_r50-caffe-dc5_1x_coco.py"))
    assert model.backbone.output_stride == 16
    assert model.rpn_head.in_channels == NEW[3]
    assert model.roi_head.bbox_roi_extractor.out_channels == NEW[3]
    assert model.roi_head.bbox_head.in_channels == NEW[3]


@pytest.mark.parametrize(
    ("name", "part", "loss"),
    [
        ("dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py", "dcn", 'dcn=dict(type="DCN"'),
        ("gcnet/mask-rcnn_r50-gcb-r16-c3-c5_fpn_1x_coco.py", "plugins", "plugins=[dict(cfg="),
        ("gn/mask-rcnn_r50_fpn_gn-all_2x_coco.py", "norm_cfg", "32 groups do not divide"),
    ],
)
def test_what_is_lost_is_named(name, part, loss):
    cfg = shipped(f"mmdet::{name}")
    with pytest.warns(UserWarning, match=f"model.backbone.{part}") as caught:
        adapted, report = adapt_config(cfg)
    (line,) = [line for line in report.losses if f".{part}" in line]
    assert loss in line and f"LOST: {line}" in str(report)
    assert any(loss in str(each.message) for each in caught)
    HCGNet(**{key: value for key, value in adapted.model.backbone.items() if key != "type"})


def test_classifiers_and_encoders():
    model, _ = adapt(shipped("mmpretrain::resnet/resnet50_8xb32_in1k.py"))
    assert model.backbone.out_indices == (3,)
    assert "norm_eval" not in model.backbone
    assert model.head.in_channels == NEW[3]
    assert model.neck == dict(type="GlobalAveragePooling")
    model, _ = adapt(shipped("mmpretrain::mocov2/mocov2_resnet50_8xb32-coslr-200e_in1k.py"))
    assert (model.neck.in_channels, model.neck.out_channels) == (NEW[3], 128)
    model, _ = adapt(shipped("mmpretrain::arcface/resnet50-arcface_8xb32_inshop.py"))
    assert model.image_encoder[0].type == "mmhcgnet.HCGNet"
    assert model.head.in_channels == NEW[3]


# MMSegmentation's, which is not in the environment; the campaign takes its own configs.


def segmenter(backbone: dict | None = None, **parts: object) -> Config:
    geometry = dict(strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), norm_cfg=dict(type="SyncBN"))
    kind = dict(type="ResNetV1c", depth=50, out_indices=(0, 1, 2, 3), contract_dilation=True)
    return config(
        "mmseg",
        type="EncoderDecoder",
        pretrained="open-mmlab://resnet50_v1c",
        backbone=kind | geometry | (backbone or {}),
        **parts,
    )


def head(channels: object, index: object, **kwargs: object) -> dict:
    return dict(type="FCNHead", in_channels=channels, in_index=index, channels=8, **kwargs)


def test_a_segmenter_keeps_its_output_stride():
    model, losses = adapt(
        segmenter(decode_head=head(2048, 3), auxiliary_head=[head(1024, 2), head(2048, -1)])
    )
    assert not losses
    assert model.pretrained is None
    assert model.backbone.to_dict() == dict(
        type="mmhcgnet.HCGNet",
        arch="B",
        out_indices=(0, 1, 2, 3),
        output_stride=8,
        norm_cfg=dict(type="SyncBN"),
    )
    assert model.decode_head.in_channels == NEW[3]
    assert [each.in_channels for each in model.auxiliary_head] == NEW[2:]


def test_heads_on_several_maps_and_within_heads():
    model, _ = adapt(
        segmenter(
            decode_head=[
                head([512, 1024, 2048], (1, 2, 3)),
                dict(type="DepthwiseSeparableASPPHead", in_channels=2048, in_index=3,
                     c1_in_channels=256),
                dict(type="IterativeDecodeHead", kernel_generate_head=head(2048, 3),
                     kernel_update_head=[dict(type="KernelUpdateHead", in_channels=512)]),
            ]
        )
    )  # fmt: skip
    several, deeplab, knet = model.decode_head
    assert several.in_channels == NEW[1:]
    assert (deeplab.in_channels, deeplab.c1_in_channels) == (NEW[3], NEW[0])
    assert knet.kernel_generate_head.in_channels == NEW[3]
    assert knet.kernel_update_head[0].in_channels == 512


def test_jpu_hands_maps_of_the_backbone_on():
    backbone = dict(strides=(1, 2, 2, 2), out_indices=(1, 2, 3))
    neck = dict(type="JPU", in_channels=(512, 1024, 2048), mid_channels=512, dilations=(1, 2, 4, 8))
    model, _ = adapt(
        segmenter(backbone, neck=neck, decode_head=head(2048, 2), auxiliary_head=head(1024, 1))
    )
    assert model.backbone.dilations == (1, 1, 2, 4)
    assert model.neck.in_channels == tuple(NEW[1:])
    assert model.decode_head.in_channels == 2048
    assert model.auxiliary_head.in_channels == NEW[2]


def test_wrapped_backbones():
    channels = dict(context_channels=(512, 1024, 2048), spatial_channels=(256, 256, 256, 512))
    inner = dict(type="BiSeNetV1", backbone_cfg=resnet(), **channels)
    model, _ = adapt(config("mmseg", backbone=inner))
    assert model.backbone.context_channels == (512, *NEW[2:])
    assert model.backbone.spatial_channels == (256, 256, 256, NEW[2] - 512)
    with pytest.raises(UsageError, match="model.backbone is an ICNet, which calls the layers"):
        adapt(config("mmseg", backbone=dict(type="ICNet", backbone_cfg=resnet())))


# What is refused, and forms of configs


@pytest.mark.parametrize(
    ("cfg", "reason"),
    [
        (Config(dict(a=1)), "has no model"),
        (config(backbone=dict(type="SwinTransformer")), "has none of ResNet, ResNetV1c"),
        (config(backbone=resnet(strides=(2, 2, 2, 2))), "begin with 2"),
        (
            config(backbone=resnet(), neck=dict(type="FPN", in_channels=[1, 2, 3, 4])),
            r"model.neck \(FPN\) reads \[1, 2, 3, 4\] channels where the backbone gave 256, 512",
        ),
        (segmenter(decode_head=head(2048, 5)), "model.decode_head.in_index=5 names a map"),
        (segmenter(decode_head=head(256, 1)), "reads 256 channels where the backbone gave 512"),
    ],
    ids=["no model", "no ResNet", "strides", "neck", "index", "channels"],
)
def test_what_cannot_be_adapted_is_one_sentence(cfg, reason):
    with pytest.raises(UsageError, match=reason) as error:
        adapt_config(cfg)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kwargs", "reason"),
    [
        (dict(arch="A1"), "is for images of CIFAR's size"),
        (dict(arch=dict(depths=(1, 1), growth_rates=(8, 8))), "out_indices must be integers"),
        (dict(out_indices=(2, 3)), "give as many"),
    ],
    ids=str,
)
def test_networks_that_have_not_the_maps(kwargs, reason):
    with pytest.raises(UsageError, match=reason):
        adapt_config(config(backbone=resnet()), **kwargs)


def test_a_neck_may_leave_maps_alone():
    neck = dict(type="CLRFPN", in_channels=[256, 512, 1024])
    model, _ = adapt(config(backbone=resnet(), neck=neck))
    assert model.neck.in_channels == NEW[:3]
    model, _ = adapt(config(backbone=resnet(), neck=neck | dict(in_channels=[1024, 2048])))
    assert model.neck.in_channels == NEW[2:]


def test_smaller_and_wider_resnets_and_types_that_are_classes():
    from mmdet.models import ResNet

    narrow = dict(type=ResNet, depth=18)
    model, _ = adapt(config("x", backbone=narrow, neck=dict(in_channels=[64, 128, 256, 512])))
    assert model.neck.in_channels == NEW
    assert model.backbone.norm_eval is True  # what MMDetection's does unless it is told not to
    wide = resnet(base_channels=128, expansion=2)
    model, _ = adapt(config(backbone=wide, neck=dict(in_channels=[256, 512, 1024, 2048])))
    assert model.neck.in_channels == NEW


def test_a_config_of_the_new_style(tmp_path):
    """Its types are classes. Only configs of that style can inherit from it."""
    (tmp_path / "base.py").write_text("max_epochs = 1\n")
    path = tmp_path / "new_style.py"
    path.write_text(
        "from mmengine.config import read_base\n"
        "from mmdet.models import FPN, ResNet, RetinaNet\n\n"
        "with read_base():\n    from .base import *\n\n"
        "model = dict(type=RetinaNet, backbone=dict(type=ResNet, depth=50),\n"
        "             neck=dict(type=FPN, in_channels=[256, 512, 1024, 2048]))\n"
    )
    cfg = Config.fromfile(path)
    adapted, _ = adapt_config(cfg)
    assert adapted.model.backbone.type == "mmhcgnet.HCGNet"
    assert adapted.model.neck.in_channels == NEW
    with pytest.raises(UsageError, match="new style"):
        write_child(str(path), cfg, adapted)


def test_strings_are_written_as_they_are():
    cfg = shipped("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    adapted, _ = adapt_config(cfg, pretrained='it\'s "mine".pth', out_indices=(0, 1, 2, 3))
    text = write_child("base.py", cfg, adapted)
    names: dict = {}
    exec(text, names)
    assert names["model"]["backbone"]["init_cfg"]["checkpoint"] == 'it\'s "mine".pth'


def test_infinity_is_written_as_it_is():
    cfg = shipped("mmdet::retinanet/retinanet_r50_fpn_1x_coco.py")
    adapted, _ = adapt_config(cfg, pretrained="a.pth", ranges=((0, 1.5), (1.5, float("inf"))))
    names: dict = {}
    exec(write_child("base.py", cfg, adapted), names)
    assert names["model"]["backbone"]["ranges"] == ((0, 1.5), (1.5, float("inf")))
