"""Our configs name the guards themselves; the scripts give them to any other config."""

import copy
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import DATASETS
from mmengine.runner import CheckpointLoader
from torch.utils.data import IterableDataset

import mmhcgnet
from mmhcgnet.cli.default_hooks import set_guards

CONFIGS = Path(__file__).parents[2] / "configs"
GUARDS = {
    "mmhcgnet.StrictLoadHook",
    "mmhcgnet.DataGuardHook",
    "mmhcgnet.NonFiniteHook",
    "mmhcgnet.InterruptHook",
    "mmhcgnet.SafeCheckpointHook",
    "mmhcgnet.ClassOrderHook",
    "mmhcgnet.UntrainedNormHook",
    "mmhcgnet.LogGuardHook",
    "mmhcgnet.SameBuffersHook",
}


def types(cfg):
    return [hook.type for hook in cfg.default_hooks.values() if hook]


@pytest.mark.parametrize(
    "path",
    sorted(path for path in CONFIGS.rglob("*.py") if "_base_" not in path.parts),
    ids=lambda path: path.stem,
)
def test_our_configs_need_nothing_more(path):
    cfg = Config.fromfile(path)
    guarded = copy.deepcopy(cfg)
    set_guards(guarded)
    assert guarded.to_dict() == cfg.to_dict()
    assert set(types(cfg)) >= GUARDS
    loop = "Iter" if "max_iters" in cfg.train_cfg else "Epoch"
    assert cfg.train_cfg.type == f"mmhcgnet.Resumable{loop}Loop"


@pytest.mark.parametrize(
    "train_cfg, loop",
    [
        (dict(type="EpochBasedTrainLoop", max_epochs=1), "mmhcgnet.ResumableEpochLoop"),
        (dict(by_epoch=True, max_epochs=1), "mmhcgnet.ResumableEpochLoop"),
        (dict(by_epoch=False, max_iters=1), "mmhcgnet.ResumableIterLoop"),
        (dict(type="TheirLoop"), "TheirLoop"),
    ],
)
def test_any_other_config_gets_them(train_cfg, loop):
    cfg = Config(dict(train_cfg=train_cfg))
    set_guards(cfg)
    assert set(types(cfg)) == GUARDS
    assert cfg.train_cfg.type == loop and "by_epoch" not in cfg.train_cfg


class Stream(IterableDataset):
    """What draws its samples by itself."""


@pytest.mark.parametrize("kind", [Stream, "Stream"])
def test_a_stream_keeps_the_loop_that_can_read_it(kind):
    DATASETS.register_module(module=Stream, force=True)
    loop = dict(type="IterBasedTrainLoop", max_iters=2)
    cfg = Config(dict(train_cfg=loop, train_dataloader=dict(dataset=dict(type=kind))))
    set_guards(cfg)
    assert set(types(cfg)) == GUARDS and cfg.train_cfg.type == "IterBasedTrainLoop"


def test_options_of_hooks_stay():
    checkpoint = dict(type=CheckpointHook, interval=3, save_best="auto")
    cfg = Config(dict(default_hooks=dict(checkpoint=checkpoint)))
    set_guards(cfg)
    wanted = dict(type="mmhcgnet.SafeCheckpointHook", interval=3, save_best="auto")
    assert cfg.default_hooks.checkpoint == wanted


def test_what_a_config_says_of_a_guard_holds():
    cfg = Config(
        dict(
            default_hooks=dict(interrupt=None, checkpoint=None),
            custom_hooks=[dict(type="mmhcgnet.NonFiniteHook", max_skipped=3)],
        )
    )
    set_guards(cfg)
    others = {f"mmhcgnet.{name}Hook" for name in ("NonFinite", "Interrupt", "SafeCheckpoint")}
    assert set(types(cfg)) == GUARDS - others
    assert cfg.custom_hooks == [dict(type="mmhcgnet.NonFiniteHook", max_skipped=3)]


@pytest.mark.parametrize("place", ["default_hooks", "custom_hooks"])
def test_replaced_parts_reach_the_hook(place):
    hook = dict(type="mmhcgnet.StrictLoadHook", replaced=("neck",))
    cfg = Config({place: [hook] if place == "custom_hooks" else dict(own=hook)})
    set_guards(cfg, ["head.fc"])
    hooks = [*cfg.default_hooks.values(), *(cfg.get("custom_hooks") or [])]
    assert {tuple(h.replaced) for h in hooks if h.type == hook["type"]} == {("head.fc",)}


def test_importing_the_package_guards_nothing():
    assert mmhcgnet.__version__
    loader = CheckpointLoader._get_checkpoint_loader("checkpoint.pth")
    assert loader.__module__ == "mmengine.runner.checkpoint"
