"""A log that cannot be written is a warning, once, and no end."""

import logging
import shutil

import pytest
from mmengine.logging import MMLogger
from test_safe_checkpoint_hook import At, files, run

from mmhcgnet import LogGuardHook


@pytest.fixture(autouse=True)
def _another_logger_for_others():
    """MMEngine would write to the one that fails in whatever test comes next."""
    yield
    MMLogger._instance_dict.clear()


def fill_the_disk(runner):
    """What a full disk does to the text log, and to the file of the scalars."""

    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    for handler in runner.logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.stream.write = full
    for backend in runner.visualizer._vis_backends.values():
        backend._dump = full


def remove_the_folder(runner):
    shutil.rmtree(runner._log_dir)


LOGGING = dict(logger=dict(type="LoggerHook", interval=1))


@pytest.mark.parametrize("harm", [fill_the_disk, remove_the_folder])
def test_a_run_goes_on_without_its_log(tmp_path, capfd, harm):
    run(tmp_path, LogGuardHook(), At("before_train_epoch", harm, epoch=1), settings=LOGGING)
    assert files(tmp_path)[-1] == "epoch_4.pth"
    err = capfd.readouterr().err
    assert err.count("warning: A log cannot be written") == 1 and "Traceback" not in err


def test_other_errors_are_not_hidden(tmp_path):
    def spoil(runner):
        for backend in runner.visualizer._vis_backends.values():
            backend._dump = lambda *_: 1 / 0

    with pytest.raises(ZeroDivisionError):
        run(tmp_path, LogGuardHook(), At("before_train_epoch", spoil), settings=LOGGING)
