"""The authors' detector of MMDetection 1.x in today's MMDetection."""

from pathlib import Path

import pytest
import torch
from helpers.official import (
    DETECTOR_CLASSES,
    OfficialDetectionBackbone,
    classifier_shapes,
    detector_shapes,
    random_weights,
    zero_weights,
)
from mmdet.registry import MODELS
from mmengine.config import Config
from mmengine.registry import init_default_scope

from mmhcgnet.convert import LayoutError, official_to_mmdet

CONFIG = Path(__file__).parents[2] / "configs/mask_rcnn/mask-rcnn_hcgnet-b_fpn_1x_coco_v1.py"
CLASS_LAYERS = ("bbox_head.fc_cls", "bbox_head.fc_reg", "mask_head.conv_logits")


@pytest.fixture(scope="module")
def official():
    """Weights as the authors' program saves them; not to be changed.

    The backbone is random. In the class layers every entry is the index of its class, from 0 for
    the background.
    """
    shapes = detector_shapes("B")
    weights = random_weights({k: v for k, v in shapes.items() if k.startswith("backbone.")})
    for name, shape in shapes.items():
        if name.startswith(CLASS_LAYERS):
            rows = torch.arange(shape[0]) // (shape[0] // DETECTOR_CLASSES)
            weights[name] = rows.float().view(-1, *[1] * (len(shape) - 1)).expand(shape).clone()
        elif name not in weights:
            weights[name] = torch.randn(shape) / 100
    return weights


@pytest.fixture(scope="module")
def detector():
    cfg = Config.fromfile(CONFIG)
    init_default_scope("mmdet")
    return MODELS.build(cfg.model).eval()


@pytest.fixture(scope="module")
def image_and_maps(official):
    image = torch.randn(1, 3, 65, 96)
    with torch.no_grad():
        return image, OfficialDetectionBackbone("B", official)(image.double())


def relative_errors(detector, state_dict, image_and_maps):
    detector.load_state_dict(state_dict, strict=True)
    image, expected = image_and_maps
    with torch.no_grad():
        actual = detector.backbone(image)
    assert [out.shape for out in actual] == [out.shape for out in expected]
    pairs = zip(actual, expected, strict=True)
    return [((a.double() - e).abs().max() / e.abs().max()).item() for a, e in pairs]


@pytest.mark.parametrize("prefix", ["", "module."])
def test_all_four_maps(official, detector, image_and_maps, prefix):
    weights = {prefix + name: tensor for name, tensor in official.items()}
    converted = official_to_mmdet(dict(meta=dict(epoch=12), state_dict=weights, optimizer={}))
    assert (converted.arch, converted.num_classes, converted.epoch) == ("B", 80, 12)
    assert converted.file_name == f"{CONFIG.stem}.pth"
    errors = relative_errors(detector, converted.state_dict, image_and_maps)
    assert len(errors) == 4 and max(errors) <= 1e-5


def test_the_comparison_sees_swapped_branches(official, detector, image_and_maps):
    state = official_to_mmdet(official).state_dict
    swapped = {
        name.replace("branch3", "\0").replace("branch5", "branch3").replace("\0", "branch5"): value
        for name, value in state.items()
    }
    assert max(relative_errors(detector, swapped, image_and_maps)) > 1e-3


def test_the_background_leaves_the_class_layers(official):
    state = official_to_mmdet(official).state_dict
    background_last = torch.tensor([*range(1, 81), 0.0])
    foreground = torch.arange(1.0, 81)
    for layer, rows in {
        "bbox_head.fc_cls": background_last,
        "bbox_head.fc_reg": foreground.repeat_interleave(4),
        "mask_head.conv_logits": foreground,
    }.items():
        for kind in ("weight", "bias"):
            tensor = state[f"roi_head.{layer}.{kind}"]
            assert torch.equal(tensor.flatten(1)[:, 0] if tensor.dim() > 1 else tensor, rows)
            assert tensor.shape[1:] == official[f"{layer}.{kind}"].shape[1:]
            assert tensor.untyped_storage().nbytes() == tensor.numel() * 4


def test_the_rest_of_the_heads_moves_and_does_not_change(official):
    state = official_to_mmdet(official).state_dict
    others = [name for name in official if not name.startswith(("backbone.", *CLASS_LAYERS))]
    assert sum(name.startswith("rpn_head.") for name in others) == 6
    for name in others:
        place = name if name.startswith(("neck.", "rpn_head.")) else f"roi_head.{name}"
        assert torch.equal(state[place], official[name]), name


def test_names_of_classes_are_kept(official):
    names = [f"class {i}" for i in range(80)]
    meta = official_to_mmdet(dict(state_dict=official, meta=dict(CLASSES=names))).checkpoint["meta"]
    assert meta["dataset_meta"] == dict(classes=tuple(names))
    meta = official_to_mmdet(dict(state_dict=official, meta=dict(CLASSES=["a"]))).checkpoint["meta"]
    assert "dataset_meta" not in meta


def without_memory(shapes):
    return zero_weights(shapes, device="meta")


def test_another_backbone_and_other_classes():
    weights = without_memory(detector_shapes("C"))
    for layer, rows in zip(CLASS_LAYERS, (6, 24, 6), strict=True):
        for kind in ("weight", "bias"):
            name = f"{layer}.{kind}"
            weights[name] = torch.empty(rows, *weights[name].shape[1:], device="meta")
    converted = official_to_mmdet(weights)
    assert (converted.arch, converted.num_classes, converted.file_name) == ("C", 5, None)
    assert converted.state_dict["roi_head.bbox_head.fc_reg.weight"].shape == (20, 1024)


def shifted(weights):
    """The transitions under the numbers that the classifier gives them."""
    for b in (2, 3, 4):
        weights = {
            k.replace(f"transition{b}.", f"transition{b - 1}."): v for k, v in weights.items()
        }
    return weights


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (shifted, r"\d+ missing \(backbone\.transition4\..*, \d+ unknown \(backbone\.transition1"),
        (
            lambda w: {k: v for k, v in w.items() if k != "neck.fpn_convs.3.conv.bias"},
            r"1 missing \(neck\.fpn_convs\.3\.conv\.bias\)",
        ),
        (
            lambda w: w | {"mask_head.conv_logits.bias": torch.ones(80)},
            r"1 of another shape \(mask_head\.conv_logits\.bias \(80,\) instead of \(81,\)\)",
        ),
        (
            lambda w: w | {"module.rpn_head.rpn_cls.bias": torch.ones(3)},
            r"1 twice, with and without 'module\.' \(rpn_head\.rpn_cls\.bias\)",
        ),
        (
            lambda w: w | {"bbox_head.fc_cls.bias": torch.ones(1)},
            r"1 of another shape \(bbox_head\.fc_cls\.bias \(1,\) instead of \(81,\)\)",
        ),
    ],
    ids=["shifted", "missing", "shape", "duplicate", "classes"],
)
def test_what_does_not_match_is_listed(damage, sentence):
    weights = damage(without_memory(detector_shapes("B")))
    with pytest.raises(
        LayoutError, match=f"the authors' Mask R-CNN with HCGNet-B it has.*{sentence}"
    ):
        official_to_mmdet(weights)


def test_a_classifier_is_told_apart():
    weights = without_memory(classifier_shapes("B", 1000))
    with pytest.raises(LayoutError, match="tools/model_converters/official_to_mmpretrain.py"):
        official_to_mmdet(dict(net=weights))


# The config: what MMDetection 1.x did, in numbers.


def test_anchors_are_those_of_mmdetection_1(detector):
    """Corners are rounded, and a side of 32 pixels spans 31 between them."""
    anchors = detector.rpn_head.prior_generator.base_anchors
    assert anchors[0].tolist() == [
        [-21.0, -9.0, 24.0, 12.0],
        [-14.0, -14.0, 17.0, 17.0],
        [-9.0, -21.0, 12.0, 24.0],
    ]


@pytest.mark.parametrize("place", ["rpn_head", "roi_head.bbox_head"])
def test_box_coders_count_both_ends(detector, place):
    """A box from 0 to 31 is 32 wide: twice as wide is 64, from 0 to 63."""
    coder = detector.get_submodule(place).bbox_coder
    deltas = coder.encode(torch.tensor([[0.0, 0, 31, 31]]), torch.tensor([[0.0, 0, 63, 31]]))
    deltas = deltas[0] * torch.tensor(coder.stds)
    expected = torch.tensor([0.5, 0, torch.tensor(2.0).log(), 0])
    torch.testing.assert_close(deltas, expected)


def test_rois_are_not_aligned_and_losses_are_smooth(detector):
    roi_head = detector.roi_head
    for extractor in (roi_head.bbox_roi_extractor, roi_head.mask_roi_extractor):
        assert all(not a.aligned and a.sampling_ratio == 2 for a in extractor.roi_layers)
    assert detector.rpn_head.loss_bbox.beta == pytest.approx(1 / 9)
    assert roi_head.bbox_head.loss_bbox.beta == 1


@pytest.mark.slow(reason="a whole detector of COCO's size")
def test_the_legacy_ops_run_on_a_cpu(official, detector):
    from mmdet.structures import DetDataSample

    detector.load_state_dict(official_to_mmdet(official).state_dict, strict=True)
    shape = dict(img_shape=(64, 96), ori_shape=(64, 96), scale_factor=(1.0, 1.0))
    sample = DetDataSample(metainfo=dict(shape, batch_input_shape=(64, 96), pad_shape=(64, 96)))
    with torch.no_grad():
        (result,) = detector.predict(torch.randn(1, 3, 64, 96), [sample], rescale=True)
    boxes = result.pred_instances.bboxes
    assert len(boxes) and boxes.isfinite().all()
    assert boxes.min() >= 0 and boxes[:, 2].max() <= 95 and boxes[:, 3].max() <= 63
    assert result.pred_instances.masks.shape == (len(boxes), 64, 96)
