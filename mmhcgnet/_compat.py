"""The version gate: are the MM packages here, new enough, and all from one line?

Two lines of the MM packages exist, the maintained `onedl-*` and the upstream one. Both install
into the same import names (`mmengine`, `mmcv`, ...), so that only their distributions' metadata
tells them apart, and having both means that each has overwritten files of the other.
"""

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

from packaging.version import InvalidVersion, Version


class _Package(NamedTuple):
    module: str
    minimum: str
    required: bool
    # The distributions that provide the module in each line.
    onedl: tuple[str, ...]
    openmmlab: tuple[str, ...]


_PACKAGES = (
    _Package("mmengine", "0.10.7", True, ("onedl-mmengine",), ("mmengine", "mmengine-lite")),
    _Package("mmcv", "2.1.0", True, ("onedl-mmcv",), ("mmcv", "mmcv-lite", "mmcv-full")),
    _Package("mmdet", "3.3.0", False, ("onedl-mmdetection",), ("mmdet",)),
    _Package("mmpretrain", "1.2.0", False, ("onedl-mmpretrain",), ("mmpretrain",)),
)


def check_dependencies() -> None:
    """Check the installed MM packages by their metadata, without importing any of them.

    mmengine and mmcv are required, mmdet and mmpretrain are checked only where installed. A
    package that can be imported but has no metadata (a source folder on `PYTHONPATH`) passes.

    Raises:
        RuntimeError: A required package is missing, one is too old, or packages of both lines
            are installed. The message ends with the command that fixes it. Not an
            `ImportError`: MMEngine's registries swallow that one behind a prefixed type such as
            `mmhcgnet.HCGNet`, and the user would see a bare `KeyError`.
    """
    found = {"onedl": {}, "openmmlab": {}}
    missing, old = [], {}
    for package in _PACKAGES:
        known = False
        for line in found:
            for name in filter(_is_installed, getattr(package, line)):
                known = True
                version = found[line][name] = metadata.version(name)
                if _is_older(version, package.minimum):
                    old[name] = f"{name} {version} is older than {package.minimum}"
        if package.required and not known and find_spec(package.module) is None:
            missing.append(package.module)

    # A user of the upstream line is helped within it; everybody else gets the maintained line.
    line = "openmmlab" if found["openmmlab"] and not found["onedl"] else "onedl"
    if found["onedl"] and found["openmmlab"]:
        both = found["onedl"] | found["openmmlab"]
        listed = ", ".join(f"{name} {version}" for name, version in both.items())
        _fail(
            f"packages of both MM lines are installed ({listed}), each with files of the other "
            "overwritten",
            list(both),
            line,
        )
    if missing or old:
        problems = list(old.values())
        if missing:
            be = "is" if len(missing) == 1 else "are"
            problems.append(f"{' and '.join(missing)} {be} not installed")
        _fail(", ".join(problems), list(old), line)


def _is_older(version: str | None, minimum: str) -> bool:
    try:
        return Version(version) < Version(minimum)
    except (InvalidVersion, TypeError):  # damaged metadata says nothing about the code
        return False


def _fail(problem: str, remove: list[str], line: str) -> None:
    command = f"pip install --no-build-isolation {_own_requirement(line)}"
    if remove:
        command = f"pip uninstall -y {' '.join(remove)} && {command}"
    raise RuntimeError(
        f"mmhcgnet cannot be imported: {problem}; with PyTorch installed, run: {command}"
    )


def install_command(optional: str | None = None) -> str:
    """The command that installs the MM packages of the line that is there.

    Args:
        optional: The module of one more, that this package does not need: ``"mmseg"``.
    """
    line = "openmmlab" if any(map(_is_installed, _PACKAGES[0].openmmlab)) else "onedl"
    extras = f"{line},{line}-{optional}" if optional else line
    return f"pip install --no-build-isolation {_own_requirement(extras)}"


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def _own_requirement(extras: str) -> str:
    """How pip is to name this package: pip knows an installed one, else by its source folder."""
    if _is_installed("mmhcgnet"):
        return f'"mmhcgnet[{extras}]"'
    return f'-e "{Path(__file__).resolve().parents[1]}[{extras}]"'
