"""Distributed runs, on machines without an accelerator too."""

from __future__ import annotations

import datetime
import gc
import os
import signal
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mmengine.config import Config
from mmengine.device import get_device
from torch import distributed

from mmhcgnet.config_dicts import placed_dicts, type_name
from mmhcgnet.errors import UsageError
from mmhcgnet.processes import signal_when_parent_ends

_SYNC_NORMS = ("SyncBN", "MMSyncBN", "SyncBatchNorm")
# Launcher -> where it puts the rank, the number of processes and the rank on this machine.
_VARIABLES = dict(
    pytorch=("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    slurm=("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID"),
    mpi=("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
)
_PATIENCE = datetime.timedelta(seconds=20)


def prepare_distributed(cfg: Config, training: bool) -> None:
    """Make a distributed run possible on a CPU; elsewhere MMEngine does all by itself (NCCL).

    On Linux, each process gets SIGTERM when its launcher ends.

    MMEngine's own start calls ``torch.cuda.set_device`` and hands ``device_ids`` to DDP. It does
    neither when the process group already exists and the config says ``device_ids=None``.

    Args:
        cfg: The config, its ``launcher`` set; ``model_wrapper_cfg`` is changed in place.
        training: Whether the run trains; synchronised norms cannot do that on a CPU.

    Raises:
        UsageError: If the launcher did not start this process, or the model has synchronised
            norms.
    """
    launcher = cfg.launcher
    if launcher == "none":
        return
    # A launcher that was killed does not end its processes: they save and end by themselves.
    signal_when_parent_ends(signal.SIGTERM, os.getppid())
    absent = [name for name in _VARIABLES[launcher] if name not in os.environ]
    if absent:
        raise UsageError(
            f"--launcher {launcher} needs {', '.join(absent)} in the environment: start the run "
            "with tools/dist_train.sh or tools/dist_test.sh (pytorch), srun (slurm) or mpirun "
            "(mpi), or leave --launcher out."
        )
    if get_device() != "cpu":
        return
    if training:
        _refuse_sync_norms(cfg)
    _init_gloo(cfg)
    wrapper = dict(
        type="MMDistributedDataParallel",
        broadcast_buffers=False,
        find_unused_parameters=cfg.get("find_unused_parameters", False),
    )
    wrapper.update(cfg.get("model_wrapper_cfg") or {})
    wrapper["device_ids"] = None
    cfg.model_wrapper_cfg = wrapper


@contextmanager
def distributed_run() -> Iterator[None]:
    """Leave the process group, if there is one, however the run in this context ends.

    The model in DDP has to go before the group does. Its reducer holds the group; where it is the
    last to do so, it ends gloo's thread while it holds Python's lock, for which that thread may be
    waiting: the process would stand still for ever. So the run is a function that has returned, or
    raised an exception, whose frames are emptied here. Staying in the group is not a way out:
    gloo's threads would be there at Python's end ("terminate called without an active exception").

    After a failure on GPUs the group stays, as NCCL might wait for the other processes.
    """
    failed = True
    try:
        yield
        failed = False
    except BaseException as error:
        _empty_frames(error)
        raise
    finally:
        if distributed.is_available() and distributed.is_initialized():
            gc.collect()  # Runner, loops and model hold each other
            if not failed or distributed.get_backend() == "gloo":
                distributed.destroy_process_group()


def _empty_frames(error: BaseException) -> None:
    """Free the local variables that a traceback holds, and those of the errors that led to it."""
    pending, seen = [error], set()
    while pending:
        error = pending.pop()
        if error is not None and id(error) not in seen:
            seen.add(id(error))
            traceback.clear_frames(error.__traceback__)
            pending += [error.__cause__, error.__context__]


def _init_gloo(cfg: Config) -> None:
    for name, source in zip(_VARIABLES["pytorch"], _VARIABLES[cfg.launcher], strict=True):
        os.environ[name] = os.environ[source]
    if cfg.launcher == "slurm" and "MASTER_ADDR" not in os.environ:
        hosts = subprocess.check_output(
            ["scontrol", "show", "hostnames", os.environ["SLURM_NODELIST"]], text=True
        )
        os.environ["MASTER_ADDR"] = hosts.split()[0]
    if "MASTER_ADDR" not in os.environ:
        raise UsageError("Set MASTER_ADDR to the name or address of the machine with rank 0.")
    os.environ.setdefault("MASTER_PORT", "29500")
    timeout = cfg.get("env_cfg", {}).get("dist_cfg", {}).get("timeout")
    distributed.init_process_group(
        "gloo", timeout=datetime.timedelta(seconds=timeout) if timeout else None
    )


def _refuse_sync_norms(cfg: Config) -> None:
    parts = placed_dicts(cfg.model, "model")
    options = [f"{key}.type=BN" for key, part in parts if type_name(part) in _SYNC_NORMS]
    if cfg.get("sync_bn"):
        options.append("sync_bn=None")
    if options:
        raise UsageError(
            "Synchronised batch norms cannot train on a CPU with several processes: pass "
            f"--cfg-options {' '.join(options)}"
        )


def launched_rank(launcher: str) -> int:
    """The rank that a ``--launcher`` gives this process, 0 without one."""
    return int(os.environ.get(_VARIABLES[launcher][0], 0)) if launcher in _VARIABLES else 0


@contextmanager
def first_of_all(launcher: str) -> Iterator[bool]:
    """Say whether this is the first process of a run to come here; the others wait until it leaves.

    torchrun keeps a store that all its processes can ask. Other launchers do not: there rank 0 is
    the first, and the others wait, as its end makes most launchers stop them.

    Args:
        launcher: The ``--launcher`` of the script.
    """
    store = _store_of_torchrun() if launcher == "pytorch" else None
    if store is None:
        if launched_rank(launcher) > 0:
            time.sleep(_PATIENCE.total_seconds())
        yield True
        return
    # A run that torchrun restarts has another first process.
    name = f"mmhcgnet/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
    first = store.add(f"{name}/came", 1) == 1
    yield first
    with suppress(RuntimeError):  # torchrun has ended, or the first process in between
        if first:
            store.set(f"{name}/left", "")
        else:
            store.wait([f"{name}/left"], _PATIENCE)


def _store_of_torchrun() -> distributed.Store | None:
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    with suppress(RuntimeError):  # torchrun has ended
        return distributed.TCPStore(address, port, timeout=_PATIENCE, wait_for_workers=False)
    return None
