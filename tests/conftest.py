import os

# One thread for each process, here and in those that tests start: as many tests run at once as
# there are cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import gc
import runpy
import shutil
import signal
import sys
import tempfile

import pytest
import torch
from helpers.scripts import TOOLS, Result
from helpers.warm import Warm
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader

from mmhcgnet.engine.configs import ops_lack_the_gpu

if ops_lack_the_gpu():
    # The tools' tests build detectors: on a CUDA device they would find no ops.
    os.environ["CUDA_VISIBLE_DEVICES"] = ""


@pytest.fixture(autouse=True, scope="session")
def _temporary_files(tmp_path_factory):
    """What tests and their processes leave in the temporary folder goes with pytest's own."""
    os.environ["TMPDIR"] = tempfile.tempdir = str(tmp_path_factory.mktemp("tmp"))


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _no_default_scope():
    """A Runner or a config that is built sets MMEngine's scope for the rest of the process."""
    DefaultScope._instance_dict.clear()


@pytest.fixture(autouse=True)
def _loader_of_mmengine(monkeypatch):
    """``use_safe_loader``, which the tools call, is for the rest of the process."""
    monkeypatch.setattr(CheckpointLoader, "_schemes", dict(CheckpointLoader._schemes))


@pytest.fixture(autouse=True)
def _ctrl_c():
    """What a script makes of Ctrl-C is for the rest of its process."""
    former = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, former)


@pytest.fixture
def start(monkeypatch, capsys):
    """Runs a script in this process, as its imports take seconds; see helpers/scripts.py.

    Returns a function of the script, its arguments and the exit code that it must have, ``None``
    for any. What the script sets for its process is set back.
    """

    def start(script, *args, code=None):
        monkeypatch.setattr(sys, "argv", [str(script), *map(str, args)])
        monkeypatch.setenv("LOCAL_RANK", "0")
        capsys.readouterr()  # what others have printed
        found = 0
        try:
            runpy.run_path(str(TOOLS / script), run_name="__main__")
        except SystemExit as end:
            found = end.code or 0
        result = Result(found, *capsys.readouterr())
        assert code in (None, found), result.err
        return result

    return start


@pytest.fixture(scope="session")
def warm():
    """Runs scripts in forks of a process with the toolboxes; see helpers/scripts.py."""
    with Warm() as process:
        yield process


def pytest_collection_finish():
    """MMEngine collects garbage for each data set that it builds: not among the imports."""
    gc.collect()
    gc.freeze()


# --- the last line -------------------------------------------------------------------------------

RAN, LEFT_OUT = pytest.StashKey[set](), pytest.StashKey[int]()


def pytest_configure(config):
    config.stash[RAN], config.stash[LEFT_OUT] = set(), 0
    config.pluginmanager.register(_Ran(config))


class _Ran:
    """Notes what has run, in this process or in those of pytest-xdist."""

    def __init__(self, config):
        self.ran = config.stash[RAN]

    def pytest_runtest_logfinish(self, nodeid):
        self.ran.add(nodeid)


def pytest_collection_modifyitems(items):
    for item in items:
        if (slow := item.get_closest_marker("slow")) and not slow.kwargs.get("reason"):
            raise pytest.UsageError(f"{item.nodeid} does not say why it is slow(reason=...)")
        if item.get_closest_marker("gpu") and not torch.cuda.is_available():
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


def pytest_deselected(items):
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:
        left_out = sum(not item.get_closest_marker("gpu") for item in slow)
        slow[0].config.stash[LEFT_OUT] = left_out


def pytest_sessionfinish(session, exitstatus):
    config = session.config
    if hasattr(config, "workeroutput"):
        config.workeroutput["left_out"] = config.stash[LEFT_OUT]
    elif exitstatus == pytest.ExitCode.INTERRUPTED:
        # pytest keeps the files of tests that failed; of ones that were cut short nobody wants any.
        shutil.rmtree(config._tmp_path_factory.getbasetemp(), ignore_errors=True)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    if left_out := getattr(node, "workeroutput", {}).get("left_out"):
        node.config.stash[LEFT_OUT] = left_out  # every process has collected all tests


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config):
    ran, left_out = len(config.stash.get(RAN, ())), config.stash.get(LEFT_OUT, 0)
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    if left_out and reporter and not hasattr(config, "workerinput"):
        reporter.write_line(f"{ran} of {ran + left_out} tests ran; all of them: make test-all")
