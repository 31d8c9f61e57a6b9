import os
import re
import shutil
from types import SimpleNamespace

import pytest
import torch
from helpers.opened import OPENED, reads
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.optim import OptimWrapper
from mmengine.registry import PARAM_SCHEDULERS
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import save_checkpoint

from mmhcgnet.checkpoints import use_safe_loader
from mmhcgnet.checkpoints.durable_files import ATOMIC
from mmhcgnet.cli.preflight import check_checkpoint
from mmhcgnet.cli.resume import drop_pretrained, set_resume
from mmhcgnet.engine.resumed_state import _compare_schedulers, overruled_settings
from mmhcgnet.errors import MissingFileError, UsageError


def config(work_dir, **kwargs):
    return Config(dict(work_dir=str(work_dir), **kwargs))


def save(path, iteration, time="20260101_120000", **changes):
    """Write what a run saves."""
    checkpoint = dict(
        meta=dict(epoch=0, iter=iteration, time=time),
        state_dict=dict(weight=torch.ones(5)),
        optimizer=dict(state={}),
        message_hub=dict(log_scalars={}, runtime_info={}, resumed_keys={}),
    )
    checkpoint.update(changes)
    checkpoint = {key: value for key, value in checkpoint.items() if value is not None}
    save_checkpoint(checkpoint, str(path), backend_args=dict(backend=ATOMIC))
    return str(path)


def damage(path):
    content = bytearray(open(path, "rb").read())
    content[content.index(torch.ones(5).numpy().tobytes())] ^= 1
    with open(path, "wb") as file:
        file.write(content)


def found(work_dir, **kwargs):
    cfg = config(work_dir, **kwargs)
    assert set_resume(cfg, "auto") is True and cfg.resume is True
    return cfg.load_from


def test_without_a_checkpoint_the_run_starts_anew_from_its_load_from(tmp_path):
    (tmp_path / "start.pth").write_text("")
    cfg = config(tmp_path / "empty", load_from=f"{tmp_path}/start.pth")
    assert set_resume(cfg, "auto") is False
    assert cfg.resume is False and cfg.load_from == f"{tmp_path}/start.pth"


@pytest.mark.parametrize("resume, own", [("auto", False), (None, True)])
def test_the_latest_checkpoint_is_found(resume, own, tmp_path):
    path = save(tmp_path / "epoch_3.pth", 30)
    cfg = config(tmp_path, resume=own)
    assert set_resume(cfg, resume) is True
    assert cfg.resume is True and cfg.load_from == path


@pytest.mark.parametrize("pointer", [None, "", "epoch_2.pth", "elsewhere/epoch_3.pth"])
def test_the_pointer_may_be_lost_empty_stale_or_of_another_folder(tmp_path, pointer):
    save(tmp_path / "epoch_2.pth", 20)
    path = save(tmp_path / "epoch_10.pth", 100)
    if pointer is not None:
        (tmp_path / "last_checkpoint").write_text(pointer)
    assert found(tmp_path) == path


def test_the_newest_run_counts_and_not_the_longest_or_the_date_of_the_file(tmp_path):
    save(tmp_path / "epoch_9.pth", 90, time="20250101_120000")
    path = save(tmp_path / "epoch_3.pth", 30, time="20260101_120000")
    save(tmp_path / "epoch_2.pth", 20, time="20260101_110000")
    os.utime(path, (0, 0))
    assert found(tmp_path) == path
    # Within a second, the iteration.
    save(tmp_path / "iter_29.pth", 29)
    assert found(tmp_path) == path
    path = save(tmp_path / "interrupted_iter_31.pth", 31)
    assert found(tmp_path) == path


def test_time_zones_do_not_count_where_the_hook_has_noted_a_time_without(tmp_path):
    """Saved by a machine in the east, and an hour later by one in the west."""
    for name, local, seconds in (
        ("a", "20260101_200000", 1e9),
        ("b", "20260101_130000", 1e9 + 3600),
    ):
        meta = dict(epoch=0, iter=10, time=local, unix_time=seconds)
        path = save(tmp_path / f"{name}.pth", 10, meta=meta)
    assert found(tmp_path) == path


@pytest.mark.parametrize(
    "kind", ["flipped", "cut", "empty", "no optimizer", "no iteration", "no message hub"]
)
def test_one_that_cannot_be_resumed_from_is_passed_over_with_its_reason(tmp_path, kind, capsys):
    old = save(tmp_path / "epoch_2.pth", 20)
    new = save(tmp_path / "epoch_3.pth", 30)
    if kind == "flipped":
        damage(new)
    elif kind == "no optimizer":
        save(new, 30, optimizer=None)
    elif kind == "no iteration":
        save(new, 30, meta=None)
    elif kind == "no message hub":
        save(new, 30, message_hub=None)
    else:
        os.truncate(new, 0 if kind == "empty" else os.path.getsize(new) - 1)
    assert found(tmp_path) == old
    out = capsys.readouterr().out
    lacking = {
        "no optimizer": "has no optimizer.",
        "no iteration": "has no epoch, iter.",
        "no message hub": "has no message_hub.",
    }
    reason = lacking.get(kind, "damaged or cut short")
    assert f"Skipped: The checkpoint {new}" in out and reason in out
    assert f"Resuming from {old}, iteration 20" in out


def test_only_one_process_prints(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    path = save(tmp_path / "epoch_2.pth", 20)
    assert found(tmp_path, launcher="pytorch") == path
    assert capsys.readouterr().out == ""


def test_a_run_never_starts_over_where_checkpoints_are(tmp_path):
    for step in (2, 3):
        damage(save(tmp_path / f"epoch_{step}.pth", 10 * step))
    with pytest.raises(UsageError, match=r"from any .*epoch_3\.pth is damaged.* 1 more"):
        set_resume(config(tmp_path), "auto")


def test_the_best_alone_are_nothing_to_resume_from(tmp_path):
    save(tmp_path / "best_accuracy_epoch_3.pth", 30, optimizer=None)
    assert set_resume(config(tmp_path), "auto") is False


def test_a_program_in_a_checkpoint_is_passed_over_and_does_not_run(tmp_path):
    class Payload:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "ran"),)

    old = save(tmp_path / "epoch_2.pth", 20)
    save(tmp_path / "epoch_3.pth", 30, message_hub=Payload())
    assert found(tmp_path) == old
    assert not (tmp_path / "ran").exists()


def test_it_looks_where_and_for_what_the_hook_saves(tmp_path):
    work_dir = tmp_path / "work_dirs" / "run"
    hook = dict(out_dir=str(tmp_path / "out"), filename_tmpl="step-{}.ckpt")
    kwargs = dict(default_hooks=dict(checkpoint=hook))
    path = save(tmp_path / "out" / "run" / "step-3.ckpt", 30)
    save(tmp_path / "out" / "another" / "step-4.ckpt", 40)
    assert found(work_dir, **kwargs) == path
    assert found(f"{work_dir}/", **kwargs) == path


def test_a_work_dir_may_be_moved(tmp_path):
    path = save(tmp_path / "old" / "epoch_3.pth", 30)
    (tmp_path / "old" / "last_checkpoint").write_text(path)
    shutil.move(tmp_path / "old", tmp_path / "new")
    assert found(tmp_path / "new") == f"{tmp_path}/new/epoch_3.pth"


def test_the_pointer_counts_where_nothing_else_does(tmp_path):
    path = save(tmp_path / "elsewhere" / "epoch_3.pth", 30)
    (tmp_path / "last_checkpoint").write_text(path)
    assert found(tmp_path) == path
    (tmp_path / "last_checkpoint").write_text("s3://bucket/epoch_3.pth")
    assert found(tmp_path) == "s3://bucket/epoch_3.pth"


def test_a_named_checkpoint_must_exist(tmp_path):
    with pytest.raises(MissingFileError, match=r"epoch_3\.pth does not exist"):
        set_resume(config(tmp_path), f"{tmp_path}/epoch_3.pth")


def test_a_pointer_to_nothing_is_explained(tmp_path):
    (tmp_path / "last_checkpoint").write_text("elsewhere/epoch_3.pth")
    with pytest.raises(MissingFileError, match="last_checkpoint names elsewhere/epoch_3.pth"):
        set_resume(config(tmp_path), "auto")


def test_no_flag_leaves_load_from_and_checks_it(tmp_path):
    assert set_resume(config(tmp_path), None) is False
    with pytest.raises(MissingFileError, match=r"absent\.pth"):
        set_resume(config(tmp_path, load_from="absent.pth"), None)


def test_pretrained_is_dropped_at_any_depth_and_the_rest_kept():
    pretrained = dict(type="Pretrained", checkpoint="absent.pth")
    constant = dict(type="Constant", val=1.0, layer="Linear")
    model = BaseModule(init_cfg=constant)
    model.backbone = BaseModule(init_cfg=pretrained)
    model.backbone.stage = BaseModule(init_cfg=[constant, pretrained])
    drop_pretrained(model)
    assert model.init_cfg == constant
    assert model.backbone.init_cfg is None
    assert model.backbone.stage.init_cfg == [constant]
    model.init_weights()


def test_the_chosen_file_is_read_twice_at_most(tmp_path):
    """As an outline, to compare it with others, and in full: MMEngine then takes what was read."""
    use_safe_loader()
    other, path = (save(tmp_path / f"epoch_{i}.pth", i) for i in (1, 2))
    cfg = config(tmp_path, model=dict(type="Model"))
    OPENED.clear()
    assert set_resume(cfg, "auto")
    check_checkpoint(cfg, cfg.load_from)
    content = CheckpointLoader.load_checkpoint(cfg.load_from, map_location="cpu")
    assert content["meta"]["iter"] == 2 and [reads(other), reads(path)] == [1, 2]


def test_a_named_file_is_read_once(tmp_path):
    use_safe_loader()
    path = save(tmp_path / "epoch_1.pth", 1)
    cfg = config(tmp_path, model=dict(type="Model"))
    OPENED.clear()
    assert set_resume(cfg, path)
    check_checkpoint(cfg, cfg.load_from)
    CheckpointLoader.load_checkpoint(cfg.load_from, map_location="cpu")
    assert reads(path) == 1


def test_a_pointer_that_is_no_text_is_told(tmp_path):
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="last_checkpoint cannot be read: .*; delete it"):
        set_resume(config(tmp_path), "auto")


def test_templates_with_a_format_are_resumed_from(tmp_path):
    hook = dict(filename_tmpl="epoch_{:03d}.ckpt")
    path = save(tmp_path / "epoch_007.ckpt", 7)
    assert found(tmp_path, default_hooks=dict(checkpoint=hook)) == path


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("name", ["epoch_1.pth", "interrupted_iter_4.pth", "step_0004.pth"])
def test_the_pointer_may_be_named_in_place_of_what_it_points_at(tmp_path, name, moved):
    path = save(tmp_path / name, 4)
    pointer = tmp_path / "last_checkpoint"
    pointer.write_text(f"/gone/{name}" if moved else path + "\n")
    cfg = config(tmp_path / "other")
    assert set_resume(cfg, str(pointer)) is True and cfg.load_from == path
    pointer.write_text("/gone/epoch_7.pth")
    with pytest.raises(MissingFileError, match="last_checkpoint names /gone/epoch_7.pth"):
        set_resume(config(tmp_path / "other"), str(pointer))
    pointer.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="cannot be read"):
        set_resume(config(tmp_path / "other"), str(pointer))


def test_default_hooks_may_be_none(tmp_path):
    path = save(tmp_path / "epoch_1.pth", 4)
    assert found(tmp_path, default_hooks=None) == path


def settings(lr=0.1, momentum=0.9, schedulers=None):
    """What a runner has made of a config."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(3))], lr=lr, momentum=momentum)
    wrapper = OptimWrapper(optimizer)
    made = [
        PARAM_SCHEDULERS.build(dict(cfg, optimizer=wrapper))
        for cfg in schedulers or [dict(type="MultiStepLR", milestones=[2], gamma=0.1)]
    ]
    return SimpleNamespace(optim_wrapper=wrapper, param_schedulers=made)


def saved(runner):
    """What is saved after some steps."""
    for _ in range(3):
        runner.optim_wrapper.optimizer.step()
        for scheduler in runner.param_schedulers:
            scheduler.step()
    states = [scheduler.state_dict() for scheduler in runner.param_schedulers]
    return dict(optimizer=runner.optim_wrapper.state_dict(), param_schedulers=states)


WARM_UP = dict(type="LinearLR", start_factor=0.1, end=5)


@pytest.mark.parametrize(
    "changes, words",
    [
        (dict(), []),
        (dict(lr=0.2), ["optimizer lr 0.1 (config: 0.2)"]),
        (dict(momentum=0.5), ["optimizer momentum 0.9 (config: 0.5)"]),
        (
            dict(schedulers=[dict(type="MultiStepLR", milestones=[3], gamma=0.5)]),
            [
                "param_scheduler.0 gamma 0.1 (config: 0.5)",
                "param_scheduler.0 milestones [2] (config: [3])",
            ],
        ),
        (
            dict(schedulers=[WARM_UP, dict(type="MultiStepLR", milestones=[2], gamma=0.1)]),
            ["number of param_scheduler 1 (config: 2)"],
        ),
        (dict(schedulers=[dict(type="CosineAnnealingLR", T_max=4)]), ["T_max 'none' (config: 4)"]),
    ],
)
def test_settings_that_a_checkpoint_overrules_are_named_with_both_values(changes, words):
    told = overruled_settings(settings(**changes), saved(settings()))
    assert bool(told) is bool(words)
    for word in words:
        assert any(word in text for text in told), told


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_no_new_start(tmp_path, path):
    cfg = Config(dict(work_dir=str(tmp_path)))
    with pytest.raises(UsageError, match="--resume got an empty path"):
        set_resume(cfg, path)


def test_a_broken_pointer_next_to_checkpoints_does_not_matter(tmp_path):
    save_training(tmp_path / "epoch_1.pth", 3)
    (tmp_path / "last_checkpoint").write_bytes(b"\xff\xfe")
    cfg = Config(dict(work_dir=str(tmp_path)))
    assert set_resume(cfg, "auto") and cfg.load_from == f"{tmp_path}/epoch_1.pth"


def save_training(path, iteration, run=None, hour=12):
    info = dict(run_id=run) if run else {}
    hub = dict(log_scalars={}, runtime_info=info, resumed_keys={})
    meta = dict(epoch=0, iter=iteration, time=f"20260101_{hour}0000")
    content = dict(meta=meta, state_dict={}, optimizer={}, message_hub=hub)
    save_checkpoint(content, str(path))


@pytest.mark.parametrize(
    "files, pointer, newest",
    [
        # Of one run the iteration decides, of several the last save, or else the pointer.
        (dict(a=(3, "x", 20), b=(6, "x", 12)), None, "b"),
        (dict(a=(3, "x", 20), b=(6, "y", 12)), None, "a"),
        (dict(a=(3, "x", 20), b=(6, "y", 12)), "b.pth", "b"),
        (dict(a=(3, "x", 12), b=(6, "y", 20), c=(4, "x", 11)), "a.pth", "c"),
        (dict(a=(3, None, 20), b=(6, None, 12)), "b.pth", "a"),
        (dict(a=(3, "x", 12), b=(3, "x", 20)), None, "b"),
    ],
)
def test_which_checkpoint_is_the_newest(tmp_path, files, pointer, newest):
    for name, values in files.items():
        save_training(tmp_path / f"{name}.pth", *values)
    if pointer:
        (tmp_path / "last_checkpoint").write_text(f"/moved/{pointer}")
    cfg = Config(dict(work_dir=str(tmp_path)))
    assert set_resume(cfg, "auto") and cfg.load_from == f"{tmp_path}/{newest}.pth"


def test_a_folder_with_a_name_that_is_no_text(tmp_path):
    folder = os.path.join(str(tmp_path), os.fsdecode(b"gr\xfc"))
    os.mkdir(folder)
    save_training(os.path.join(folder, "epoch_1.pth"), 3)
    cfg = Config(dict(work_dir=folder))
    assert set_resume(cfg, "auto") and os.path.samefile(cfg.load_from, f"{folder}/epoch_1.pth")


@pytest.mark.parametrize(
    "own, words",
    [
        ([dict(type="MultiStepLR", milestones=[2])] * 2, "1 instead of 2"),
        ([dict(type="CosineAnnealingLR", T_max=4)], "number 0 has the settings .*T_max"),
        ([dict(type="MultiStepMomentum", milestones=[2])], "param_name=momentum"),
        ([dict(type="MultiStepLR", milestones=[3])], None),
    ],
)
def test_schedules_of_another_kind_or_number_are_told(own, words):
    former = saved(settings())["param_schedulers"]
    problem = _compare_schedulers(settings(schedulers=own).param_schedulers, former)
    assert problem is None if words is None else re.search(words, problem)
