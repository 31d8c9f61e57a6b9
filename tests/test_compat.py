"""The version gate, on interpreters whose installed packages are made up for the test."""

import re
import sys
from pathlib import Path

import pytest
from helpers.scripts import run_new

from mmhcgnet import _compat

ROOT = Path(__file__).parents[1]
ONEDL = {"onedl-mmengine": "0.10.12", "onedl-mmcv": "2.3.6"}
UPSTREAM = {"mmengine": "0.10.7", "mmcv": "2.1.0"}


@pytest.fixture
def installed(monkeypatch):
    """Returns a function that says which distributions there are; no other package is known."""

    def install(versions):
        def version(name):
            if name not in versions:
                raise _compat.metadata.PackageNotFoundError(name)
            return versions[name]

        monkeypatch.setattr(_compat.metadata, "version", version)
        monkeypatch.setattr(_compat, "find_spec", lambda module: None)

    return install


def run_python(code, *path):
    """Runs code in a new interpreter, with folders in front of everything that is installed."""
    paths = [*map(str, path), str(ROOT)]
    return run_new(sys.executable, "-c", f"import sys; sys.path[:0] = {paths!r}\n{code}")


def fake_distribution(folder, name, version):
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


@pytest.mark.parametrize(
    "versions",
    [
        ONEDL,
        UPSTREAM,
        {"mmengine-lite": "0.10.7", "mmcv-lite": "2.1.0", "mmdet": "3.3.0"},
        {**ONEDL, "onedl-mmdetection": "3.5.1", "onedl-mmpretrain": "1.3.6"},
        {**ONEDL, "onedl-mmcv": "2.10.0"},  # ten comes after one, as a number
        {**ONEDL, "onedl-mmcv": None},  # damaged metadata
    ],
)
def test_gate_accepts(installed, versions):
    installed(versions)
    _compat.check_dependencies()


@pytest.mark.parametrize(
    "versions, problem, command",
    [
        (
            {},
            "mmengine and mmcv are not installed",
            'pip install --no-build-isolation -e ".*[onedl]"',
        ),
        (
            {"mmengine": "0.10.7", "mmhcgnet": "0.1.0"},
            "mmcv is not installed",
            'pip install --no-build-isolation "mmhcgnet[openmmlab]"',
        ),
        (
            {"onedl-mmengine": "0.10.7", "mmhcgnet": "0.1.0"},
            "mmcv is not installed",
            'pip install --no-build-isolation "mmhcgnet[onedl]"',
        ),
        (
            {**UPSTREAM, "mmcv": "2.0.1", "mmhcgnet": "0.1.0"},
            "mmcv 2.0.1 is older than 2.1.0",
            'pip uninstall -y mmcv && pip install --no-build-isolation "mmhcgnet[openmmlab]"',
        ),
        (
            {**UPSTREAM, "mmdet": "2.28.2", "mmhcgnet": "0.1.0"},
            "mmdet 2.28.2 is older than 3.3.0",
            'pip uninstall -y mmdet && pip install --no-build-isolation "mmhcgnet[openmmlab]"',
        ),
        (
            {**ONEDL, "mmdet": "3.3.0", "mmhcgnet": "0.1.0"},
            "both MM lines are installed (onedl-mmengine 0.10.12, onedl-mmcv 2.3.6, mmdet 3.3.0)",
            "pip uninstall -y onedl-mmengine onedl-mmcv mmdet && "
            'pip install --no-build-isolation "mmhcgnet[onedl]"',
        ),
    ],
)
def test_gate_refuses_with_the_command_that_mends_it(installed, versions, problem, command):
    installed(versions)
    with pytest.raises(RuntimeError) as error:
        _compat.check_dependencies()
    message = str(error.value)
    assert problem in message
    pattern = re.escape(command).replace(r"\.\*", ".*")
    assert re.search(f"run: {pattern}$", message)
    assert "\n" not in message


def test_gate_accepts_a_package_without_metadata(installed, monkeypatch):
    installed({"onedl-mmengine": "0.10.12"})
    monkeypatch.setattr(_compat, "find_spec", lambda module: object())
    _compat.check_dependencies()


def test_user_sees_the_sentence_through_a_registry(tmp_path):
    fake_distribution(tmp_path, "mmdet", "3.3.0")
    fake_distribution(tmp_path, "onedl-mmdetection", "3.5.1")
    code = "from mmengine.registry import MODELS; MODELS.build(dict(type='mmhcgnet.HCGNet'))"
    process = run_python(code, tmp_path)
    assert process.code == 1
    last = process.err.strip().splitlines()[-1]
    assert last.startswith("RuntimeError: mmhcgnet cannot be imported: packages of both MM lines")
    assert "pip uninstall -y" in last


@pytest.mark.slow(reason="interpreters that import everything")
def test_import_needs_neither_mmdet_nor_mmpretrain_nor_ops():
    code = """
for blocked in ("mmdet", "mmpretrain", "mmcv.ops", "mmcv._ext"):
    sys.modules[blocked] = None
from mmengine.registry import MODELS
print(type(MODELS.build(dict(type="mmhcgnet.HCGNet", arch="A1"))).__name__)
"""
    process = run_python(code)
    assert process.out.strip() == "HCGNet", process.err


def test_lowest_versions_agree_with_mminstall():
    lines = (ROOT / "requirements/mminstall.txt").read_text().splitlines()
    stated = dict(re.match(r"(\w+)>=([\d.]+)", line).groups() for line in lines if line[0] != "#")
    assert stated == {p.module: p.minimum for p in _compat._PACKAGES if p.required}
