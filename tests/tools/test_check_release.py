"""What a release says about itself."""

import datetime
import runpy
import shutil
from pathlib import Path

import pytest

from mmhcgnet import __version__

ROOT = Path(__file__).parents[2]
find_faults = runpy.run_path(str(ROOT / "tools/misc/check_release.py"))["find_faults"]
LATER = datetime.date(2999, 1, 1)


@pytest.fixture
def files(tmp_path):
    for name in ("CHANGELOG.md", "CITATION.cff", "configs/mask_rcnn/metafile.yml"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "weights", tmp_path / "weights")
    return tmp_path


def test_this_version():
    assert find_faults(ROOT, __version__, LATER) == []


@pytest.mark.parametrize(
    "name, old, new, fault",
    [
        ("CHANGELOG.md", f"[{__version__}]", "[0.0.1]", "begins with no section"),
        ("CHANGELOG.md", "\n## [", "\n## [Unreleased]\n\n## [", "has a section"),
        ("CHANGELOG.md", " - 2026", " - 3026", "needs the day"),
        ("CITATION.cff", f"version: {__version__}", "version: 0.0.1", "of version 0.0.1"),
        ("configs/mask_rcnn/metafile.yml", "weights/mask", "weights/no", "does not exist"),
    ],
)
def test_what_is_forgotten(files, name, old, new, fault):
    text = (files / name).read_text()
    assert old in text
    (files / name).write_text(text.replace(old, new, 1))
    (found,) = find_faults(files, __version__, LATER)
    assert fault in found
