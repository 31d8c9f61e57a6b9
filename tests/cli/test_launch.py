import os
import weakref
from contextlib import nullcontext

import pytest
import torch
from mmengine.config import Config
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from mmhcgnet.cli import launch
from mmhcgnet.cli.launch import distributed_run, prepare_distributed
from mmhcgnet.errors import UsageError


@pytest.fixture
def started(monkeypatch):
    """A process that torchrun started on a machine without GPU; the group is not formed."""
    for name, value in dict(RANK="1", WORLD_SIZE="2", LOCAL_RANK="1", MASTER_ADDR="me").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(launch, "get_device", lambda: "cpu")
    calls = []
    monkeypatch.setattr(
        launch.distributed, "init_process_group", lambda *args, **kwargs: calls.append(args)
    )
    return calls


def config(launcher="pytorch", **kwargs):
    return Config(dict(launcher=launcher, model=dict(), **kwargs))


def test_one_process_is_left_alone(started):
    cfg = config("none", model_wrapper_cfg=None)
    prepare_distributed(cfg, training=True)
    assert not started and cfg.model_wrapper_cfg is None


def test_gpus_are_left_to_mmengine(started, monkeypatch):
    monkeypatch.setattr(launch, "get_device", lambda: "cuda")
    cfg = config()
    prepare_distributed(cfg, training=True)
    assert not started and "model_wrapper_cfg" not in cfg


def test_cpu_processes_use_gloo_and_no_device_ids(started):
    cfg = config(find_unused_parameters=True)
    prepare_distributed(cfg, training=True)
    assert started == [("gloo",)]
    assert cfg.model_wrapper_cfg == dict(
        type="MMDistributedDataParallel",
        device_ids=None,
        broadcast_buffers=False,
        find_unused_parameters=True,
    )


def test_the_users_own_wrapper_settings_are_kept(started):
    cfg = config(model_wrapper_cfg=dict(find_unused_parameters=True, static_graph=True))
    prepare_distributed(cfg, training=True)
    assert cfg.model_wrapper_cfg.find_unused_parameters and cfg.model_wrapper_cfg.static_graph
    assert cfg.model_wrapper_cfg.device_ids is None


@pytest.mark.parametrize(
    "launcher, variables",
    [
        ("slurm", dict(SLURM_PROCID="3", SLURM_NTASKS="4", SLURM_LOCALID="1")),
        (
            "mpi",
            dict(
                OMPI_COMM_WORLD_RANK="3",
                OMPI_COMM_WORLD_SIZE="4",
                OMPI_COMM_WORLD_LOCAL_RANK="1",
            ),
        ),
    ],
)
def test_other_launchers_tell_their_rank_to_torch(started, launcher, variables, monkeypatch):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MASTER_PORT", "29999")
    prepare_distributed(config(launcher), training=True)
    assert [os.environ[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")] == ["3", "4", "1"]
    assert started == [("gloo",)]


def test_a_launcher_that_did_not_start_the_process_is_refused(monkeypatch):
    monkeypatch.delenv("RANK", raising=False)
    with pytest.raises(UsageError, match=r"needs RANK.*tools/dist_train\.sh"):
        prepare_distributed(config(), training=True)


def test_synchronised_norms_train_on_gpus_only(started):
    norm_cfg = dict(type="SyncBN", requires_grad=True)
    cfg = config(sync_bn="torch")
    cfg.model = dict(backbone=dict(norm_cfg=norm_cfg), neck=[dict(norm_cfg=norm_cfg)])
    with pytest.raises(UsageError) as info:
        prepare_distributed(cfg, training=True)
    options = "model.backbone.norm_cfg.type=BN model.neck.0.norm_cfg.type=BN sync_bn=None"
    assert str(info.value).endswith(f"--cfg-options {options}")
    prepare_distributed(cfg, training=False)
    assert started == [("gloo",)]


def test_a_run_of_one_process_has_nothing_to_leave():
    with distributed_run():
        pass
    assert not distributed.is_initialized()


class Run:
    """A model in DDP and what holds it in a circle, as a Runner and its loops do."""

    def __init__(self):
        self.model = DistributedDataParallel(nn.Linear(2, 2))
        self.loop = dict(runner=self)


@pytest.mark.parametrize(
    "backend, end, leaves",
    [
        ("gloo", None, True),
        ("gloo", SystemExit(143), True),  # a signal
        ("gloo", KeyboardInterrupt(), True),
        ("gloo", RuntimeError(), True),
        ("nccl", None, True),
        ("nccl", RuntimeError(), False),
    ],
)
def test_the_model_is_gone_when_the_group_is_left(tmp_path, monkeypatch, backend, end, leaves):
    """Whether the run ends in peace or with an exception, whose frames and causes hold it."""
    distributed.init_process_group(
        "gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1
    )
    models, alive = [], []

    def fail(run):
        raise end

    def train():
        run = Run()
        run.model(torch.ones(1, 2)).sum().backward()
        models.append(weakref.ref(run.model))
        if end is not None:
            try:
                fail(run)
            except BaseException as error:
                # As report_usage_errors does.
                raise type(end)(2) from error

    destroy = distributed.destroy_process_group
    monkeypatch.setattr(
        launch.distributed, "destroy_process_group", lambda: alive.append(models[0]())
    )
    monkeypatch.setattr(launch.distributed, "get_backend", lambda: backend)
    try:
        with pytest.raises(BaseException) if end else nullcontext(), distributed_run():
            train()
        assert models[0]() is None
        assert alive == ([None] if leaves else [])
    finally:
        destroy()


@pytest.mark.parametrize(
    "launcher, variable", [("pytorch", "RANK"), ("slurm", "SLURM_PROCID"), ("none", "RANK")]
)
def test_the_rank_before_the_group_is_there(monkeypatch, launcher, variable):
    monkeypatch.delenv(variable, raising=False)
    assert launch.launched_rank(launcher) == 0
    monkeypatch.setenv(variable, "3")
    assert launch.launched_rank(launcher) == (0 if launcher == "none" else 3)
