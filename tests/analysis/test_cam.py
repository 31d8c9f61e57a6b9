"""Class activation maps: equal to their formula where it is simple, and of any classifier."""

import sys

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from torch import nn

from mmhcgnet.analysis.gates import cam
from mmhcgnet.analysis.gates.images import Sample
from mmhcgnet.engine.models import build_model
from mmhcgnet.errors import UsageError

pytest.importorskip("pytorch_grad_cam")
pytest.importorskip("mmpretrain")

HCGNET = dict(type="mmhcgnet.HCGNet", arch=dict(depths=(1, 1), growth_rates=(8, 8), stem="cifar"))


def classifier(backbone=HCGNET, in_channels=20, **changes):
    head = dict(type="LinearClsHead", num_classes=3, in_channels=in_channels)
    model = dict(
        type="ImageClassifier",
        backbone=backbone,
        neck=dict(type="GlobalAveragePooling"),
        head=head,
    )
    model = build_model(Config(dict(model=model | changes, default_scope="mmpretrain")))
    model.init_weights()
    nn.init.normal_(list(model.parameters())[-2])
    return model.eval()


@pytest.fixture
def model():
    return classifier()


IMAGE = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(1))


def stretched(heat):
    return (heat - heat.min()) / (heat.max() - heat.min())


def enlarged(heat):
    """A map as grad-cam shows it, whose way to resize is OpenCV's."""
    return stretched(cv2.resize(stretched(heat.numpy()), (24, 16)))


@pytest.mark.parametrize("target", [None, 0, 2])
def test_grad_cam_of_a_pooled_linear_head_is_its_weights(model, target):
    """The gradient of a score by a position of channel k is w_k / HW (Zhou et al. 2016)."""
    heat, chosen, score = cam.activation_map(model, IMAGE, target=target)
    with torch.no_grad():
        maps = model.backbone(IMAGE[None])[-1][0]  # (20, 8, 12)
        scores = model(IMAGE[None])[0]
    assert chosen == (scores.argmax() if target is None else target)
    assert score == pytest.approx(float(scores[chosen]), abs=1e-5)
    expected = torch.einsum("k,khw->hw", model.head.fc.weight[chosen].detach(), maps).relu()
    assert heat.shape == (16, 24) and expected.shape == (8, 12)
    np.testing.assert_allclose(heat, enlarged(expected), atol=1e-4)
    assert heat.min() == 0 and heat.max() == pytest.approx(1)


@pytest.mark.parametrize("method", cam.METHODS)
def test_all_methods(model, method):
    heat, _, _ = cam.activation_map(model, IMAGE, method, layer="backbone.stages.0")
    assert heat.shape == (16, 24) and torch.isfinite(heat).all()
    assert heat.min() >= 0 and heat.max() <= 1


def test_a_layer_that_is_overwritten_in_place(model):
    """The ReLU behind the norm works in place; the map is the norm's own output all the same."""
    shown, target, _ = cam.activation_map(model, IMAGE, "hirescam", 1, "backbone.norm")
    norm = model.backbone.norm
    kept = []
    handle = norm.register_forward_hook(lambda *args: kept.append(args[-1].detach().clone()))
    with torch.no_grad():
        model(IMAGE[None])
    handle.remove()
    weights = model.head.fc.weight[target].detach()[:, None, None]
    contributions = (weights * kept[0][0].relu()).sum(dim=0).relu()
    np.testing.assert_allclose(shown, enlarged(contributions), atol=1e-4)


@pytest.mark.parametrize("with_cp", [False, True])
def test_leaves_the_model_as_it_was(with_cp):
    model = classifier(HCGNET | dict(with_cp=with_cp, frozen_stages=1))
    trained = [p.requires_grad for p in model.parameters()]
    assert not all(trained)
    before = model(IMAGE[None]).detach()
    cam.activation_map(model, IMAGE)
    inner, _, _ = cam.activation_map(model, IMAGE, layer="backbone.stages.1.0.squeeze2")
    assert inner.max() == pytest.approx(1)
    assert torch.equal(model(IMAGE[None]).detach(), before)
    assert [p.requires_grad for p in model.parameters()] == trained
    assert not any(p.grad is not None for p in model.parameters())
    assert not any(layer._forward_hooks for layer in model.modules())


def test_another_network_and_tokens():
    resnet = classifier(dict(type="ResNet", depth=18), 512)
    assert cam.activation_map(resnet, torch.randn(3, 64, 96))[0].shape == (64, 96)
    vit = classifier(
        dict(
            type="VisionTransformer",
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=16),
            img_size=(32, 64),
            patch_size=8,
        ),
        head=dict(type="VisionTransformerClsHead", num_classes=3, in_channels=16),
        neck=None,
    )
    image = torch.randn(3, 32, 64)
    with pytest.raises(UsageError, match="output of backbone is not a map but a tensor of shape"):
        cam.activation_map(vit, image)
    heat, _, _ = cam.activation_map(vit, image, layer="backbone.layers.1.ln1")
    assert heat.shape == (32, 64) and heat.max() == pytest.approx(1)


def test_tokens_become_a_map_in_rows():
    positions = torch.arange(8.0).view(2, 4)
    tokens = torch.cat([torch.full((1, 1, 1), 99.0), positions.view(1, 8, 1)], dim=1)
    assert torch.equal(cam._as_map(tokens, (20, 40), 1, "x"), positions[None, None])


def test_mistakes(model, monkeypatch):
    for target in (-1, 3):
        with pytest.raises(UsageError, match=f"class from 0 to 2, .* got {target}"):
            cam.activation_map(model, IMAGE, target=target)
    with pytest.raises(UsageError, match="no layer 'backbone.stage.1' .did you mean backbone.st"):
        cam.check_layer(model, "backbone.stage.1")
    with pytest.raises(UsageError, match="needs a classifier"):
        cam.check_layer(nn.Identity(), None)
    with pytest.raises(UsageError, match=r"method gradcamm does not exist \(did you mean gradcam"):
        cam.check_method("gradcamm")
    model.head.forward = lambda feats: dict(scores=feats[-1])
    with pytest.raises(UsageError, match="LinearClsHead, gives no score to each class"):
        cam.activation_map(model, IMAGE)
    monkeypatch.setitem(sys.modules, "pytorch_grad_cam", None)
    with pytest.raises(UsageError, match=r"pip install 'mmhcgnet\[analysis\]'"):
        cam.check_method("gradcam")


def test_figure():
    pytest.importorskip("matplotlib")
    sample = Sample(np.zeros((20, 30, 3), np.uint8), torch.zeros(3, 32, 32))
    heat = torch.zeros(32, 32)
    heat[4, 25] = 1
    left, right = cam.cam_figure(sample, heat, "why").axes
    drawn = right.images[0].get_array().sum(axis=2)
    assert drawn.shape == (20, 30)
    assert np.unravel_index(drawn.argmax(), drawn.shape) == (4, 25)
