"""Where configs find the backbone, each in a process that has not imported ``mmhcgnet`` before."""

import pytest

# Whole models as users write them; argv: the scope, then the backbone's type.
SCRIPT = """
import sys
from importlib import import_module

import torch
from mmengine.config import Config
from mmengine.registry import MODELS as ROOT
from mmengine.registry import DefaultScope

scope, name = sys.argv[1:]
backbone = dict(
    type=name, arch=dict(depths=(1, 1, 1, 1), growth_rates=(8, 8, 8, 8)), out_indices=(0, 1, 2, 3)
)
channels = [72, 44, 30, 23]
models = dict(
    mmengine=backbone,
    mmpretrain=dict(
        type="ImageClassifier",
        backbone=dict(backbone, out_indices=-1),
        neck=dict(type="GlobalAveragePooling"),
        head=dict(type="LinearClsHead", num_classes=5, in_channels=23),
    ),
    mmdet=dict(
        type="RetinaNet",
        backbone=backbone,
        neck=dict(type="FPN", in_channels=channels, out_channels=8, num_outs=5),
        bbox_head=dict(type="RetinaHead", num_classes=5, in_channels=8, feat_channels=8),
    ),
)
config = dict(default_scope=scope, model=models[scope])
assert "mmhcgnet" not in sys.modules
if "." not in name:
    config["custom_imports"] = dict(imports=["mmhcgnet"])
    text = "\\n".join(f"{key} = {value!r}" for key, value in config.items())
    config = Config.fromstring(text, ".py")  # imports what custom_imports names
else:
    config = Config(config)

# In the registry of the scope, and in MMEngine's under that default scope, as its Runner does.
built = [import_module(f"{scope}.registry").MODELS.build(config.model)]
DefaultScope.get_instance("test", scope_name=scope)
built.append(ROOT.build(config.model))
image = torch.randn(1, 3, 64, 64)
expected = dict(
    mmengine=[(1, width, side, side) for width, side in zip(channels, (16, 8, 4, 2))],
    mmpretrain=(1, 5),
    mmdet=[(1, 8, side, side) for side in (16, 8, 4, 2, 1)],
)
for model in built:
    backbone = getattr(model, "backbone", model)
    assert type(backbone).__module__.startswith("mmhcgnet."), type(backbone)
    model.eval()
    with torch.no_grad():
        outs = model.extract_feat(image) if scope == "mmdet" else model(image)
    shapes = [tuple(out.shape) for out in outs] if isinstance(outs, tuple) else tuple(outs.shape)
    assert shapes == expected[scope], shapes
print("built", len(built))
"""


@pytest.mark.parametrize("name", ["mmhcgnet.HCGNet", "HCGNet"])
@pytest.mark.parametrize("scope", ["mmengine", "mmpretrain", "mmdet"])
def test_backbone_is_found(scope, name, warm, tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    result = warm.run(script, scope, name, cwd=tmp_path)
    assert result.code == 0, result.err
    assert result.out.strip().endswith("built 2")
