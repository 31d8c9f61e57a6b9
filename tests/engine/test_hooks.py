from types import SimpleNamespace

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModel
from mmengine.registry import HOOKS, MODELS

from mmhcgnet import HCGNet

ARCH = dict(depths=(1, 1), growth_rates=(8, 8))


class Model(BaseModel):
    """A backbone whose maps are the predictions."""

    def __init__(self):
        super().__init__()
        self.backbone = HCGNet(ARCH, out_indices=(0, 1))

    def forward(self, inputs, mode="tensor"):
        return self.backbone(inputs)


@pytest.fixture
def runner():
    """All that the hook asks of a Runner."""
    return SimpleNamespace(model=Model().eval())


@pytest.mark.parametrize("point", ["before_train", "before_val", "before_test"])
def test_channels_last_changes_the_memory_and_not_the_numbers(runner, point):
    torch.manual_seed(0)
    images = torch.randn(2, 3, 64, 48)
    seen = []
    backbone = runner.model.backbone
    backbone.stages[0].register_forward_hook(lambda module, inputs, output: seen.append(output))
    before = backbone(images)
    assert not seen[0].is_contiguous(memory_format=torch.channels_last)

    hook = HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook"))
    getattr(hook, point)(runner)
    getattr(hook, point)(runner)  # validation inside a training calls twice
    after = backbone(images)
    assert seen[1].is_contiguous(memory_format=torch.channels_last)
    assert len(backbone._forward_hooks) == 1
    for old, new in zip(before, after, strict=True):
        assert new.is_contiguous()
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-5)


def test_roi_align_gets_maps_that_it_reads_rightly(runner):
    pytest.importorskip("mmdet")
    # Converted to channels last and not handed on as the hook does, the second call would differ.
    extractor = MODELS.build(
        Config(
            dict(
                type="mmdet.SingleRoIExtractor",
                roi_layer=dict(type="RoIAlign", output_size=7, sampling_ratio=0),
                out_channels=runner.model.backbone.out_channels[0],
                featmap_strides=[4],
            )
        )
    )
    images = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))
    rois = torch.tensor([[0.0, 4, 4, 40, 44], [1, 8, 0, 30, 60]])
    before = extractor(runner.model.backbone(images)[:1], rois)
    HOOKS.build(dict(type="mmhcgnet.ChannelsLastHook")).before_test(runner)
    after = extractor(runner.model.backbone(images)[:1], rois)
    torch.testing.assert_close(after, before, rtol=1e-5, atol=1e-5)
