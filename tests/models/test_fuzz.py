"""Constructors with wrong arguments: 200 of them, and each is built or told which key is wrong."""

import copy
import math
import re

import pytest
import torch
from helpers.reference import TINY_CIFAR, make_arch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mmengine.registry import HOOKS, MODELS

from mmhcgnet.models import DropBlock

EXAMPLES = 200
NETWORK = dict(
    type="mmhcgnet.HCGNet",
    arch=make_arch(TINY_CIFAR)
    | dict(
        groups=4,
        squeeze_ratio=4.0,
        reduction=2,
        transition_ratio=0.5,
        transition_groups=1,
        transition_squeeze_ratio=1.5,
        transition_reduction=4,
    ),
    in_channels=3,
    out_indices=(0, 2),
    frozen_stages=1,
    norm_eval=False,
    norm_cfg=dict(type="GN", num_groups=1),
    act_cfg=dict(type="ReLU"),
    conv_cfg=dict(type="Conv2d"),
    with_cp=False,
    dropblock=dict(block_size=2, drop_prob=0.1),
    deploy=False,
    init_cfg=dict(type="Kaiming", layer="Conv2d"),
)
# Hooks without arguments have no key that could be wrong: Python says that they take none.
CONFIGS = [
    NETWORK,
    NETWORK | dict(arch="A1", norm_cfg=dict(type="BN"), dropblock=None),
    dict(type="mmhcgnet.DropoutNeck", p=0.1),
    dict(type=DropBlock, block_size=2, drop_prob=0.1),
    dict(type="mmhcgnet.ChannelsLastHook"),
    dict(type="mmhcgnet.DeployHook"),
    dict(type="mmhcgnet.DropBlockHook"),
    dict(type="mmhcgnet.NonFiniteHook", max_skipped=20),
]
WRONG = [
    *(None, True, False, 0, 1, -1, 3, 7, 9, 0.1, 1.5, -0.5, 1e-9, math.inf, -math.inf, math.nan),
    *("", "B", "1", "none", b"x", 1j, (), [], {}, set(), (1,), [0, 1], (1, 1, 1), (True, 1, 1)),
    *((0.5,), (1, "2"), [None], [[1]], range(3), object(), print, torch.ones(2)),
    *(dict(type="Absent"), dict(type=None), dict(type=3), dict(tipe="BN"), dict(type="ReLU", a=1)),
    *(dict(depths=(1, 1)), dict(block_size=0), [dict(type="BN"), 3]),
]


def paths(cfg, prefix=()):
    """Where there is a value to change: keys and keys of dicts below them."""
    for key, value in cfg.items():
        if key != "type" or prefix:
            yield (*prefix, key)
        if isinstance(value, dict):
            yield from paths(value, (*prefix, key))


@st.composite
def mutations(draw):
    """A config with one thing wrong, perhaps, and the keys that lead to it."""
    cfg = copy.deepcopy(draw(st.sampled_from(CONFIGS)))
    places = list(paths(cfg))
    kinds = ["value", "value", "value", "absent", "unknown"]
    kind = draw(st.sampled_from(kinds)) if places else "unknown"
    path = draw(st.sampled_from(places)) if places else ("",)
    parent = cfg
    for key in path[:-1]:
        parent = parent[key]
    if kind == "value":
        parent[path[-1]] = draw(st.sampled_from(WRONG))
    elif kind == "absent":
        del parent[path[-1]]
    else:
        path = (*path[:-1], path[-1] + draw(st.sampled_from(["s", "_cfg", "x"])))
        parent[path[-1]] = draw(st.sampled_from(WRONG))
    return cfg, path


def build(cfg):
    """Build what the config describes, as a Runner does, and let a module compute."""
    if cfg["type"] is DropBlock:  # no type of its own in configs: a part of HCGNet
        module = DropBlock(**{key: value for key, value in cfg.items() if key != "type"})
    elif cfg["type"].endswith("Hook"):
        return HOOKS.build(cfg)
    else:
        module = MODELS.build(cfg)
    channels = cfg.get("in_channels", 3)
    with torch.no_grad():
        x = torch.randn(2, channels, 32, 40)
        return module.train(not cfg.get("deploy"))((x,) if "Neck" in str(cfg["type"]) else x)


def names(message, cfg, path):
    """Whether a message names a key on the path or one that its value brings along."""
    value = cfg
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    keys = [*path, *(value if isinstance(value, dict) else ())]
    keys = [key for key in keys if key != "type"]  # alone it would say too little
    return any(re.search(rf"\b{re.escape(key)}\b", message) for key in keys)


def test_wrong_arguments_are_named():
    seen = dict(built=0, refused=0)

    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(mutations())
    def run(mutation):
        cfg, path = mutation
        try:
            build(cfg)
        except (TypeError, ValueError) as error:
            seen["refused"] += 1
            message = str(error)
            assert names(message, cfg, path) or "takes no arguments" in message, (path, message)
        else:
            seen["built"] += 1

    run()
    # Neither is everything refused nor everything taken.
    assert seen["built"] + seen["refused"] >= EXAMPLES
    assert min(seen.values()) >= EXAMPLES / 20


@pytest.mark.parametrize("cfg", CONFIGS, ids=lambda cfg: str(cfg["type"]))
def test_without_a_mutation_all_are_built(cfg):
    build(copy.deepcopy(cfg))
