"""What is built from this tree: an sdist, wheels, an editable install; and the set-up's checks."""

import importlib.util
import re
import shutil
import signal
import sys
import tarfile
import types
import zipfile
from pathlib import Path

import pytest
from helpers.scripts import run_new

import mmhcgnet

ROOT = Path(__file__).parents[1]
MIM_FILES = {
    "mmhcgnet/.mim/configs/mask-rcnn_hcgnet-b_fpn_1x_coco.py",
    "mmhcgnet/.mim/tools/train.py",
    "mmhcgnet/.mim/model-index.yml",
    "mmhcgnet/.mim/configs/hcgnet/metafile.yml",
    "mmhcgnet/.mim/configs/mask_rcnn/metafile.yml",
}
TYPED = {"mmhcgnet/py.typed", "mmhcgnet_runtime/py.typed"}


def run(*command, cwd):
    process = run_new(*command, cwd=cwd)
    assert process.code == 0, process.out + process.err
    return process.out


def build(hook, tree, out):
    """Calls one of the build hooks that pip calls, without pip's look for newer build tools."""
    code = f"from setuptools import build_meta; build_meta.{hook}({str(out)!r})"
    run(sys.executable, "-c", code, cwd=tree)


def build_wheel(tree, out):
    run(
        *(sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation"),
        *("--no-index", "--wheel-dir", str(out), "."),
        cwd=tree,
    )
    (wheel,) = out.glob("mmhcgnet-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist()), archive.read(_metadata_name()).decode()


def _metadata_name():
    return f"mmhcgnet-{mmhcgnet.__version__}.dist-info/METADATA"


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A copy of what git has or would add, so that no build leaves files in the checkout."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    copy = tmp_path_factory.mktemp("tree")
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, copy / name)
    return copy


@pytest.fixture(scope="module")
def wheel(tree, tmp_path_factory):
    return build_wheel(tree, tmp_path_factory.mktemp("wheel"))


def test_wheel_carries_package_and_mim_files(tree, wheel):
    names, _ = wheel
    assert MIM_FILES | TYPED <= names
    packages = ("mmhcgnet", "mmhcgnet_runtime")
    modules = {
        str(path.relative_to(tree)) for name in packages for path in tree.glob(f"{name}/**/*.py")
    }
    assert modules <= names
    configs = {f"mmhcgnet/.mim/{path.relative_to(tree)}" for path in tree.glob("configs/**/*.py")}
    assert configs <= names
    # `mim` finds the package beside its metadata; anything else at the top would be a stray.
    top = {name.split("/")[0] for name in names}
    assert top == {*packages, _metadata_name().split("/")[0]}
    assert not any("__pycache__" in name or name.endswith("entry_points.txt") for name in names)


def test_metadata(wheel):
    _, metadata = wheel
    assert f"Version: {mmhcgnet.__version__}\n" in metadata
    assert "Requires-Python: >=3.10\n" in metadata
    assert "License-File: LICENSE\n" in metadata
    # The MM packages only ever come as extras of one of the two lines.
    required = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    lines = ("onedl", "onedl-mmseg", "openmmlab", "openmmlab-mmseg")
    for line in required:
        of_the_mm_packages = any(f'extra == "{extra}"' in line for extra in (*lines, "mim"))
        what_mmseg_forgets = line.split()[1].startswith(("ftfy", "regex"))
        assert ("mm" in line.split()[1] or what_mmseg_forgets) == of_the_mm_packages
    for extra in lines:
        lines = (ROOT / f"requirements/{extra}.txt").read_text().splitlines()
        pins = [line for line in lines if not line.startswith("#")]
        assert {f'Requires-Dist: {pin}; extra == "{extra}"' for pin in pins} <= set(required)


@pytest.mark.slow(reason="each build takes seconds")
def test_sdist_builds_the_same_wheel(tree, wheel, tmp_path):
    build("build_sdist", tree, tmp_path)
    (sdist,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tmp_path)
    unpacked = tmp_path / sdist.name[: -len(".tar.gz")]
    names, _ = build_wheel(unpacked, tmp_path / "wheel")
    assert names == wheel[0]


@pytest.mark.slow(reason="each build takes seconds")
def test_editable_install_links_to_the_checkout(tree, tmp_path):
    build("build_editable", tree, tmp_path)
    for name in MIM_FILES:
        source = tree / name.replace("mmhcgnet/.mim/", "")
        assert (tree / name).resolve() == source.resolve()
        assert source.is_file()


@pytest.mark.slow(reason="each build takes seconds")
def test_a_build_forgets_what_is_gone_since_the_last(tree, wheel, tmp_path):
    stale = tree / "build/lib/mmhcgnet/.mim/configs/gone.py"
    assert stale.parent.is_dir()  # left by the build of `wheel`
    stale.write_text("")
    names, _ = build_wheel(tree, tmp_path)
    assert names == wheel[0]


# --- the set-up script's checks --------------------------------------------------------------


@pytest.fixture
def setup_env():
    path = ROOT / "tools/misc/setup_env.py"
    spec = importlib.util.spec_from_file_location("setup_env", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def complete(setup_env, monkeypatch, tmp_path):
    """The set-up script on a machine that has everything, whatever this one has."""
    (tmp_path / "Python.h").touch()
    monkeypatch.setattr(setup_env.sysconfig, "get_paths", lambda: {"include": str(tmp_path)})
    monkeypatch.setattr(setup_env.shutil, "which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setattr(setup_env.importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(setup_env, "ctypes", types.SimpleNamespace(CDLL=lambda name: name))
    assert setup_env.check_system() == []
    return setup_env


def test_a_half_made_environment_is_not_taken_for_one(setup_env, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(setup_env, "PYTHON", tmp_path / ".venv/bin/python")
    assert not setup_env.venv_runs()
    run(sys.executable, "-m", "venv", "--without-pip", ".venv", cwd=tmp_path)
    assert setup_env.venv_runs()
    assert not setup_env.pip_works()
    # Its python is now the one of the system, where nothing must ever be installed.
    (tmp_path / ".venv/pyvenv.cfg").unlink()
    assert not setup_env.venv_runs()


def test_python_version(setup_env):
    for version in ((3, 10, 0), (3, 11, 7), (3, 12, 1), (3, 13, 0)):
        assert setup_env.check_python(version) == []
    for version in ((3, 9, 18), (3, 14, 0)):
        (sentence,) = setup_env.check_python(version)
        assert f"is Python {version[0]}.{version[1]}." in sentence
        assert "make PYTHON=python3.11" in sentence


def _no_library(name):
    def load(asked):
        if asked == name:
            raise OSError(f"{name}: cannot open shared object file")

    return types.SimpleNamespace(CDLL=load)


@pytest.mark.parametrize(
    "what, package",
    [
        ("C++ compiler", "g++"),
        ("git", "git"),
        ("Python.h", "-dev"),
        ("ensurepip", "-venv"),
        ("libGL.so.1", "libgl1"),
        ("libgthread-2.0.so.0", "libglib2.0-0"),
    ],
)
def test_a_missing_piece_is_named_with_the_apt_line(complete, monkeypatch, what, package):
    if what in ("C++ compiler", "git"):
        missing = {"C++ compiler": "c++", "git": "git"}[what]
        monkeypatch.delenv("CXX", raising=False)
        monkeypatch.setattr(
            complete.shutil, "which", lambda name: None if name == missing else f"/usr/bin/{name}"
        )
    elif what == "Python.h":
        monkeypatch.setattr(complete.sysconfig, "get_paths", lambda: {"include": "/nowhere"})
    elif what == "ensurepip":
        monkeypatch.setattr(
            complete.importlib.util, "find_spec", lambda name: None if name == what else name
        )
    else:
        monkeypatch.setattr(complete, "ctypes", _no_library(what))
    sentence, apt = complete.check_system()
    assert what in sentence
    assert "sudo apt-get install -y" in apt and package in apt


def test_a_small_disk_is_named(setup_env, monkeypatch):
    usage = types.SimpleNamespace(free=3.21e9)
    monkeypatch.setattr(setup_env.shutil, "disk_usage", lambda folder: usage)
    (sentence,) = setup_env.check_disk(ROOT)
    assert "3.2" in sentence and str(ROOT) in sentence


@pytest.fixture
def jobs(setup_env, monkeypatch, tmp_path):
    """The commands that the set-up would run, by turns: each list runs at once."""
    started = []
    monkeypatch.setattr(setup_env, "WHEELS", tmp_path)
    (tmp_path / "lib/python3.11/site-packages").mkdir(parents=True)
    monkeypatch.setattr(setup_env, "VENV", tmp_path)
    monkeypatch.setattr(setup_env, "HEADER", tmp_path / "precompiled/torch_types.h")
    monkeypatch.setattr(setup_env, "is_cached", lambda pin: True)
    monkeypatch.setattr(setup_env, "cuda_environment", dict)
    monkeypatch.setattr(setup_env, "has_cuda", lambda: False)
    monkeypatch.setattr(setup_env, "Job", lambda command, env=None, log=None: (command, env))
    monkeypatch.setattr(setup_env, "check", lambda *jobs: started.append(jobs))
    return started


@pytest.mark.parametrize("works", [True, False], ids=["good", "stale"])
def test_mmcv_is_built_anew_when_its_ops_do_not_load(setup_env, jobs, monkeypatch, works):
    monkeypatch.setattr(setup_env, "succeeds", lambda code: works)
    setup_env.install_mm_packages()
    (((install, _),), *others) = jobs
    assert "--no-cache-dir" not in install
    if works:
        assert not others
    else:
        ((rebuild, env),), ((test, _),) = others
        assert {"--force-reinstall", "--no-cache-dir"} < set(rebuild) and "-g0" in env["CPPFLAGS"]
        assert test == [setup_env.PYTHON, "-c", "import mmcv.ops"]


def test_mmcv_compiles_while_one_other_pip_installs(setup_env, jobs, monkeypatch):
    monkeypatch.setattr(setup_env, "succeeds", lambda code: False)
    monkeypatch.setenv("CPPFLAGS", "-DMINE")
    setup_env.build_mmcv()
    ((install, _), (build, env)) = jobs.pop()
    assert "install" in install and not any("onedl-mmcv" in str(part) for part in install)
    assert "wheel" in build and build[-1].startswith("onedl-mmcv==")
    # CFLAGS would take the place of Python's own flags, -O3 among them.
    assert env["CPPFLAGS"].split() == ["-g0", "-DMINE"] and "CFLAGS" not in env
    # What is there already is not compiled for nothing.
    monkeypatch.setattr(setup_env, "succeeds", lambda code: True)
    setup_env.build_mmcv()
    assert len(jobs.pop()) == 1


@pytest.mark.parametrize("gcc, cached", [(True, False), (False, False), (True, True)])
def test_gcc_alone_gets_a_precompiled_header(setup_env, jobs, monkeypatch, gcc, cached):
    commands = []

    def run(*command):
        commands.append([str(part) for part in command])
        if "-o" in command:
            Path(command[-1]).touch()
        return gcc

    monkeypatch.setattr(setup_env, "run", run)
    monkeypatch.setattr(setup_env, "succeeds", lambda code: False)
    monkeypatch.setattr(setup_env, "is_cached", lambda pin: cached)
    setup_env.build_mmcv()
    (_, (_, env)) = jobs.pop()
    header = str(setup_env.HEADER)
    assert (f"-include {header}" in env["CPPFLAGS"]) is (gcc and not cached)
    assert len(commands) == (0 if cached else 1 + gcc)
    assert not setup_env.HEADER.parent.exists()  # the 400 MB go again


@pytest.fixture
def job(setup_env, monkeypatch, tmp_path):
    monkeypatch.setattr(setup_env, "SCRATCH", tmp_path / "scratch")

    def job(code):
        return setup_env.Job([sys.executable, "-u", "-c", code], log=tmp_path / "log")

    return job


def test_a_job_that_fails_ends_the_other_and_has_the_last_word(setup_env, job):
    other = job("import time; time.sleep(60)")
    with pytest.raises(setup_env.SetupError, match="    no space left\n.*run the same command"):
        setup_env.check(other, job("raise SystemExit('no space left')"))
    assert other.process.poll() == -signal.SIGTERM


def test_of_a_compiler_the_first_error_is_shown(setup_env):
    lines = [f"[{i}/90] c++ -c {i}.cpp" for i in range(50)]
    lines += ["nms.cpp:3:10: fatal error: torch/extension.h: No such file or directory"]
    lines += [f"  File setuptools/{i}.py" for i in range(50)] + ["ERROR: Failed to build"]
    words = setup_env.last_words("\n".join(lines)).splitlines()
    assert len(words) < 25 and "torch/extension.h: No such file" in words[0]
    assert words[-1] == "    ERROR: Failed to build"


def test_a_compiler_shows_how_far_it_is(setup_env, job, monkeypatch, capsys):
    monkeypatch.setattr(setup_env, "ALIVE_SECONDS", 0.2)
    setup_env.check(job("import time; print('  [3/90] c++ -c nms.cpp'); time.sleep(1)"))
    said = capsys.readouterr().out
    assert re.search(r"still at it after \d+ s, MMCV's files compiled: 3/90", said)


def test_make_says_when_there_is_no_python():
    result = run_new("make", "setup", "PYTHON=python-that-is-not-here", cwd=ROOT)
    assert result.code != 0
    assert "There is no python-that-is-not-here here" in result.out


def test_every_pin_stands_in_one_file():
    """A package may be constrained to one version only, wherever the reader looks."""
    seen = {}
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        for line in path.read_text().splitlines():
            if "==" in line and not line.startswith("#"):
                name = line.split("==")[0].strip().lower()
                assert name not in seen, f"{name} is pinned in {seen[name]} and in {path.name}"
                seen[name] = path.name
    assert "torch" in seen and "setuptools" in seen
