"""Layer-wise decay of the learning rate, on detectors and wherever else a backbone stands."""

from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope

import mmhcgnet
from mmhcgnet.models import HCGNet

CONFIG = "mask_rcnn/mask-rcnn_hcgnet-b_fpn_adamw-layer-decay_finetune_12e_shapes.py"
ARCH = dict(depths=(1, 2, 1, 1), growth_rates=(8, 8, 8, 8))


def wrapper_cfg(lr: float | None = 1.0, **paramwise: object) -> dict:
    rate = {} if lr is None else dict(lr=lr)
    return dict(
        constructor="mmhcgnet.LayerDecayConstructor",
        optimizer=dict(type="Adadelta" if lr is None else "AdamW", weight_decay=0.1, **rate),
        paramwise_cfg=dict(layer_decay_rate=0.5, **paramwise),
    )


def settings(model: torch.nn.Module, cfg: dict) -> dict[str, tuple[float, float]]:
    """Learning rate and weight decay of every parameter by its name."""
    names = {parameter: name for name, parameter in model.named_parameters()}
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    return {
        names[p]: (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]
    }


class Nested(BaseModule):
    """A backbone at another place than a detector's."""

    def __init__(self) -> None:
        super().__init__()
        self.teacher = BaseModule()
        self.teacher.backbone = HCGNet(ARCH)
        self.head = torch.nn.Linear(4, 4)


def test_the_rates_of_a_mask_rcnn_layer_by_layer():
    cfg = Config.fromfile(Path(mmhcgnet.__file__).parents[1] / "configs" / CONFIG)
    init_default_scope(cfg.default_scope)
    model = MODELS.build(cfg.model)
    found = settings(model, cfg.optim_wrapper)
    assert found.keys() == {name for name, _ in model.named_parameters()}
    base = cfg.optim_wrapper.optimizer.lr
    # The stem, then the modules of a stage and the transition behind it, up to the last stage.
    order = ["stem."]
    for stage, depth in enumerate((3, 6, 12, 8)):
        order += [f"stages.{stage}.{i}." for i in range(depth)] + [f"transitions.{stage}."][
            : stage < 3
        ]
    assert len(order) == 33
    rates = {}
    for layer, prefix in enumerate(order):
        of_layer = {lr for name, (lr, _) in found.items() if name.startswith(f"backbone.{prefix}")}
        assert len(of_layer) == 1, prefix
        rates[prefix] = of_layer.pop()
        assert rates[prefix] == pytest.approx(base * 0.9 ** (33 - layer)), prefix
    assert rates["stem."] == pytest.approx(0.0309 * base, rel=1e-3)
    for name, (lr, decay) in found.items():
        if not name.startswith("backbone."):
            assert lr == base, name
        is_norm = ".norm." in name or name.startswith("backbone.norm.")
        assert decay == (0 if is_norm or name.endswith("bias") else 0.05), name
    assert found["backbone.norm.weight"][0] == pytest.approx(rates["stages.3.7."])


def test_a_nested_backbone_and_factors_of_other_kinds():
    """The decay multiplies with what MMEngine's constructor offers."""
    cfg = wrapper_cfg(custom_keys={"stages.0": dict(lr_mult=10), "head": dict(lr_mult=3)})
    found = settings(Nested(), cfg)
    layers = HCGNet(ARCH).get_layer_depth("x")[1]
    prefix = "teacher.backbone."
    assert found[f"{prefix}stages.0.0.squeeze1.conv.weight"][0] == 10 * 0.5 ** (layers - 2)
    assert found[f"{prefix}transitions.0.squeeze1.conv.weight"][0] == 0.5 ** (layers - 3)
    assert found["head.weight"][0] == 3
    assert found[f"{prefix}stem.0.conv.weight"][0] == 0.5 ** (layers - 1)


@pytest.mark.parametrize(
    ("model", "cfg", "reason"),
    [
        (torch.nn.Linear(2, 2), wrapper_cfg(), "has get_layer_depth"),
        (Nested(), wrapper_cfg() | dict(paramwise_cfg=dict(layer_decay_rate=0)), "above 0, got 0"),
        (Nested(), wrapper_cfg() | dict(paramwise_cfg=dict(layer_decay_rate="x")), "got 'x'"),
        (Nested(), wrapper_cfg(lr=None), "needs optimizer.lr"),
    ],
    ids=["no backbone", "zero", "a string", "no rate"],
)
def test_what_is_refused(model, cfg, reason):
    with pytest.raises(ValueError, match=reason):
        build_optim_wrapper(model, cfg)
