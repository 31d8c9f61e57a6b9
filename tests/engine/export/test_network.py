"""HCGNet's form for export: equal to the plain one, in any engine, and small."""

import copy
import os
import signal

import pytest
import torch
from helpers.exported import ENGINES, noise, run, scatter, writes_onnx
from mmpretrain.models import ClsDataPreprocessor
from torch import nn

from mmhcgnet import HCGNet
from mmhcgnet.engine.export import export_backbone, write_model
from mmhcgnet.engine.export.files import _to_onnx
from mmhcgnet.engine.export.network import simplify
from mmhcgnet_runtime import open_engine

TINY = dict(depths=(2, 1), growth_rates=(8, 8))


def network(arch=TINY, **options):
    network = HCGNet(arch, **options)
    scatter(network)
    return network.eval()


def with_preprocessor(backbone, **options):
    model = nn.Module()
    model.backbone = backbone
    model.data_preprocessor = ClsDataPreprocessor(
        mean=[100.0, 110, 120], std=[50.0, 60, 70], **options
    )
    return model


def close(values, wanted):
    for value, want in zip(values, wanted, strict=True):
        value, want = torch.as_tensor(value), torch.as_tensor(want)
        assert value.shape == want.shape
        assert (value - want).abs().max() <= 1e-5 * want.abs().max()


@pytest.mark.parametrize(
    "options",
    [
        dict(out_indices=(0, 1)),
        dict(out_indices=0),
        dict(arch=dict(TINY, stem="cifar", growth_rates=(12, 20), groups=2)),
        dict(norm_cfg=dict(type="GN", num_groups=1), act_cfg=dict(type="SiLU")),
        dict(out_indices=(0, 1), output_stride=4),
        dict(out_indices=(0, 1), deploy=True),
    ],
    ids=["maps", "first", "cifar", "layers", "stride", "deployed"],
)
def test_it_equals_the_plain_form(options):
    plain = network(**options)
    simplified = copy.deepcopy(plain)
    simplify(simplified)
    x = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        close(simplified(x), plain(x))


@pytest.mark.parametrize("to_rgb", [True, False])
@pytest.mark.parametrize("engine", ENGINES)
def test_a_backbone_at_other_sizes_and_batches(engine, to_rgb, tmp_path):
    writes_onnx()
    plain = network(out_indices=(0, 1))
    exported = export_backbone(with_preprocessor(copy.deepcopy(plain), to_rgb=to_rgb))
    path = str(tmp_path / "backbone.onnx")
    write_model(exported, path, {})
    mean, std = torch.tensor([100.0, 110, 120]), torch.tensor([50.0, 60, 70])
    for number in (1, 3):
        for height, width in ((64, 64), (96, 70), (33, 130)):
            images = noise(number, height, width)
            x = images if to_rgb else images.flip(3)
            x = ((x - mean) / std).permute(0, 3, 1, 2)
            with torch.no_grad():
                wanted = plain(x)
            close(run(engine, path, images), wanted)


@pytest.mark.slow(reason="exports HCGNet-B")
def test_hcgnet_b_has_few_operators():
    writes_onnx()
    exported = export_backbone(with_preprocessor(HCGNet("B").eval(), to_rgb=True))
    exported.example = lambda: (torch.zeros(1, 32, 32, 3, dtype=torch.uint8),)
    assert len(_to_onnx(exported).graph.node) <= 1500


def test_fixed_shapes(tmp_path):
    writes_onnx()
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    path, images = str(tmp_path / "backbone.onnx"), noise(2, 64, 96).numpy()
    exported = export_backbone(with_preprocessor(network(), to_rgb=True))
    write_model(exported, path, {})
    fixed = open_engine(path, "openvino", shapes=dict(images=images.shape))
    each = open_engine(path, "openvino", each_shape=True)
    free = open_engine(path, "openvino")
    close(fixed(dict(images=images)).values(), free(dict(images=images)).values())
    for number, width in ((2, 96), (1, 96), (1, 64), (2, 64), (1, 70), (2, 96)):
        part = dict(images=images[:number, :, :width])
        close(each(part).values(), free(part).values())
        assert len(each._models) <= 4
    with pytest.raises(RuntimeError):
        fixed(dict(images=images[:1]))
    del fixed
    del each
    del free
    child = os.fork()
    if not child:  # a signal finds a stack that is still there
        signal.signal(signal.SIGHUP, lambda *_: os._exit(0))
        os.kill(os.getpid(), signal.SIGHUP)
    assert os.waitpid(child, 0)[1] == 0
