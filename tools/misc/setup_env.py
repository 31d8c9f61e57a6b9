"""Makes the environment of the Makefile: `.venv` with PyTorch, MMCV's ops and the MM packages.

It uses the standard library alone and avoids new syntax, so that any Python 3 can say what is
missing. Each step leaves a stamp in the environment, a hash of what went into it: a second run
finds the stamps and ends at once, an interrupted one continues at the step that was cut short.
"""

import argparse
import ctypes
import fcntl
import functools
import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENV = ROOT / ".venv"
LOG = VENV / "setup.log"
COMPILER_LOG = VENV / "mmcv.log"
SCRATCH = VENV / "tmp"
WHEELS = VENV / "wheels"
HEADER = VENV / "precompiled" / "torch_types.h"
PYTHON = VENV / "bin" / "python"
REQUIREMENTS = ROOT / "requirements"

SUPPORTED = ((3, 10), (3, 11), (3, 12), (3, 13))
DISK_GB = 12
ALIVE_SECONDS = 30


class SetupError(Exception):
    """Ends the set-up; the message is what the user reads."""


# --- checks of the machine -----------------------------------------------------------------------


def check_python(version):
    if tuple(version[:2]) in SUPPORTED:
        return []
    return [
        "Python 3.10 to 3.13 is needed, and {} is Python {}.{}. Name another one like this "
        "(and delete .venv if it exists): make PYTHON=python3.11 demo".format(
            sys.executable, *version
        )
    ]


def check_system():
    """Says in a sentence each what the system lacks; an empty list if nothing."""
    problems = []
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        problems.append("This Python cannot make virtual environments (venv and ensurepip).")
    if not (Path(sysconfig.get_paths()["include"]) / "Python.h").is_file():
        problems.append("Python's header files (Python.h) are missing; MMCV compiles with them.")
    if not shutil.which(os.environ.get("CXX", "c++").split()[0]):
        problems.append("There is no C++ compiler; MMCV's ops are compiled from source.")
    if not shutil.which("git"):
        problems.append("git is missing.")
    libraries = ("libGL.so.1", "libgthread-2.0.so.0") if sys.platform == "linux" else ()
    for library in libraries:
        try:
            ctypes.CDLL(library)
        except OSError:
            problems.append(f"The library {library} is missing; OpenCV needs it.")
    if problems:
        problems.append(
            "On Debian or Ubuntu this installs all that is needed:\n"
            "  sudo apt-get install -y git make g++ python{0}.{1}-venv python{0}.{1}-dev "
            "libgl1 libglib2.0-0".format(*sys.version_info)
        )
    return problems


def check_disk(folder):
    free = shutil.disk_usage(str(folder)).free / 1e9
    if free >= DISK_GB:
        return []
    return [
        f"About {DISK_GB} GB of free disk space are needed in {folder}, and there are {free:.1f}."
    ]


# --- running things ------------------------------------------------------------------------------


def say(text):
    print("[set-up] " + text, flush=True)


def duration(seconds):
    minutes, seconds = divmod(int(seconds), 60)
    return f"{minutes} min {seconds:02d} s" if minutes else f"{seconds} s"


class Job:
    """A command that runs with its output in a log.

    Args:
        command: The program and its arguments.
        env: What its environment has besides ours.
        log: The file that its output is added to.
    """

    def __init__(self, command, env=None, log=LOG):
        # pip unpacks gigabytes: next to the environment, since /tmp may be small or in memory.
        SCRATCH.mkdir(exist_ok=True)
        settings = dict(os.environ, TMPDIR=str(SCRATCH), PIP_REQUIRE_VIRTUALENV="1", **(env or {}))
        self.log = log
        with log.open("a") as file:
            file.write("\n$ " + " ".join(map(str, command)) + "\n")
            file.flush()
            self._start = file.tell()
            self.process = subprocess.Popen(
                [str(part) for part in command],
                cwd=str(ROOT),
                env=settings,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that pip's compilers can be ended together with it
            )

    def output(self):
        with self.log.open(errors="replace") as file:
            file.seek(self._start)
            return file.read()

    def progress(self):
        """How many files ninja has compiled, if it compiles."""
        found = re.findall(r"^\s*\[(\d+/\d+)\] ", self.output(), re.MULTILINE)
        return ", MMCV's files compiled: " + found[-1] if found else ""

    def end(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            self.process.wait()


def wait(jobs):
    """Waits for all of them, with a line now and then; one that fails ends the others.

    Returns:
        The job that failed, or None.
    """
    started = said = time.monotonic()
    try:
        while True:
            codes = [job.process.poll() for job in jobs]
            failed = [job for job in jobs if job.process.poll()]
            if failed or None not in codes:
                return failed[0] if failed else None
            time.sleep(0.1)
            if time.monotonic() - said >= ALIVE_SECONDS:
                said = time.monotonic()
                progress = "".join(job.progress() for job in jobs)
                say("  ... still at it after " + duration(said - started) + progress)
    finally:
        for job in jobs:
            job.end()
        shutil.rmtree(str(SCRATCH), ignore_errors=True)


def check(*jobs):
    failed = wait(jobs)
    if failed:
        raise SetupError(
            last_words(failed.output())
            + f"\nThe step above failed; its whole output is in {failed.log}. If that was the "
            "network, or you have fixed it, run the same command again: it continues from here."
        )


def last_words(output):
    """What a failed command says: the first error of a compiler, if there is one, and the end."""
    lines = output.splitlines()
    errors = [i for i, line in enumerate(lines) if re.search(r":(\d+:|) (fatal )?error: ", line)]
    words = lines[-20:]
    if errors and errors[0] < len(lines) - 20:
        words = lines[errors[0] : errors[0] + 8] + ["..."] + lines[-12:]
    return "\n".join("    " + line[:500] for line in words)


def run(*command):
    return wait([Job(command)]) is None


def pip(action, *arguments):
    """pip with every pin as a constraint; where it looks is left to the user's own settings."""
    command = [PYTHON, "-m", "pip", action, "--disable-pip-version-check"]
    for name in ("build.txt", "torch.txt", "onedl.txt", "constraints-onedl.txt"):
        command += ["-c", REQUIREMENTS / name]
    return command + list(arguments)


def pip_install(*arguments):
    # Of the thousands of modules most are never imported: Python compiles those that are.
    return pip("install", "--no-compile", *arguments)


def succeeds(code):
    return run(PYTHON, "-c", code)


def venv_runs(statement="pass"):
    """Whether the environment's Python runs this, and is really the environment's.

    Without its pyvenv.cfg, as an interrupted start may leave it, `.venv/bin/python` is just the
    Python it links to, and pip would install everything into the system.
    """
    code = "import os, sys; {}; sys.exit(os.path.realpath(sys.prefix) != sys.argv[1])"
    command = [str(PYTHON), "-c", code.format(statement), str(VENV.resolve())]
    try:
        return subprocess.call(command, stderr=subprocess.DEVNULL) == 0
    except OSError:
        return False


def pip_works():
    # The metadata is what an installation writes last: without it pip itself is half there.
    return venv_runs("import pip; from importlib.metadata import version; version('pip')")


# --- steps ---------------------------------------------------------------------------------------


def make_venv():
    """A new environment, or the existing one if its pip works or can be fixed."""
    if venv_runs() and not pip_works():
        run(PYTHON, "-m", "ensurepip")  # an environment may well have been made without pip
    if pip_works():
        return
    if VENV.exists():
        say("  .venv is incomplete and is made again")
    if subprocess.call([sys.executable, "-m", "venv", "--clear", str(VENV)]):
        raise SetupError(f"The virtual environment in {VENV} could not be made.")
    if not pip_works():
        raise SetupError(f"The virtual environment in {VENV} has no pip; delete it and try again.")


def install_build_tools():
    check(Job(pip_install("-r", REQUIREMENTS / "build.txt")))


def install_torch():
    check(Job(pip_install("-r", REQUIREMENTS / "torch.txt")))


def build_mmcv():
    """Compiles MMCV's ops, and meanwhile installs all that does not need them.

    The one pip writes nothing but a wheel, into its cache, and the other alone installs: two that
    install into one environment would spoil one another's work.
    """
    install = pip_install("--no-build-isolation")
    for name in ("runtime.txt", "tests.txt", "constraints-onedl.txt"):
        install += ["-r", REQUIREMENTS / name]
    jobs = [(install, None, LOG)]
    if not succeeds(MMCV_IS_THERE.format(*mmcv_pin().split("=="))):
        if not is_cached(mmcv_pin()):
            precompile_header()
        options = ("--no-deps", "--no-build-isolation", "-v", "--wheel-dir", WHEELS)
        jobs.append((pip("wheel", *options, mmcv_pin()), compiler_environment(), COMPILER_LOG))
    check(*[Job(*job) for job in jobs])
    shutil.rmtree(str(HEADER.parent), ignore_errors=True)


def is_cached(pin):
    """Whether pip has built a wheel of this before."""
    wheel = pin.replace("-", "_").replace("==", "-")
    job = Job([PYTHON, "-m", "pip", "cache", "list", wheel.partition("-")[0]])
    return wait([job]) is None and wheel in job.output()


def precompile_header():
    """Lets GCC read PyTorch's header once: in each of MMCV's 78 files it takes 3/4 of the time.

    GCC takes a precompiled header only where it would give the same, by its own comparison of
    flags and macros, and the header itself otherwise. Other compilers are left alone.
    """
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    (site_packages,) = VENV.glob("lib/python*/site-packages")
    include = site_packages / "torch" / "include"
    command = compiler + shlex.split(sysconfig.get_config_var("CFLAGS") or "")
    command += ["-g0", "-w", "-fPIC", "-std=c++17"]
    command += ["-DTORCH_API_INCLUDE_EXTENSION_H", "-DTORCH_EXTENSION_NAME=_ext"]
    command += ["-I" + str(include), "-I" + str(include / "torch" / "csrc" / "api" / "include")]
    HEADER.parent.mkdir(exist_ok=True)
    HEADER.write_text("#ifndef __GNUC__\n#error\n#endif\n#ifdef __clang__\n#error\n#endif\n")
    if run(*compiler, "-fsyntax-only", "-x", "c++", HEADER):
        HEADER.write_text("#include <torch/types.h>\n")
        run(*command, "-x", "c++-header", HEADER, "-o", str(HEADER) + ".gch")


MMCV_IS_THERE = "from importlib.metadata import version; assert version('{}') == '{}'"


def compiler_environment():
    # MMCV would compile four files at once on any machine, at about 1 GB of memory each.
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e9
    settings = {"MAX_JOBS": str(max(1, min(os.cpu_count(), int(memory))))}
    settings.update((name, os.environ[name]) for name in settings if name in os.environ)
    # More than half of the time would go into symbols for a debugger. CPPFLAGS are added to
    # Python's own flags, CFLAGS would replace them and leave the ops unoptimised.
    flags = ["-g0", os.environ.get("CPPFLAGS", "")]
    if Path(str(HEADER) + ".gch").exists():
        flags.append("-include " + shlex.quote(str(HEADER)))
    settings["CPPFLAGS"] = " ".join(flags)
    settings.update(cuda_environment())
    return settings


def install_mm_packages():
    """MMCV's wheel that lies there, and what needs it; a wheel for another PyTorch is rebuilt."""
    WHEELS.mkdir(exist_ok=True)
    packages = ("--find-links", WHEELS, "-r", REQUIREMENTS / "onedl.txt")
    check(Job(pip_install("--no-build-isolation", *packages)))
    works = "import mmcv.ops"
    if not cuda_environment() and has_cuda():
        works += "; assert mmcv.ops.get_compiling_cuda_version() != 'not available'"
    if not succeeds(works):
        say("  MMCV's ops do not load: the wheel was built for another PyTorch; compiling it again")
        rebuild = ("--force-reinstall", "--no-deps", "--no-cache-dir", "--no-build-isolation")
        command = pip_install(*rebuild, "-v", mmcv_pin())
        check(Job(command, compiler_environment(), COMPILER_LOG))
        check(Job([PYTHON, "-c", works]))
    shutil.rmtree(str(WHEELS))


def pins(name):
    """The requirements in a file, without its comments."""
    lines = (REQUIREMENTS / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def mmcv_pin():
    (pin,) = [pin for pin in pins("onedl.txt") if pin.startswith("onedl-mmcv==")]
    return pin


def has_cuda():
    return succeeds("import sys, torch; sys.exit(not torch.cuda.is_available())")


@functools.lru_cache(maxsize=None)  # noqa: UP033
def cuda_environment():
    """MMCV refuses to build where a GPU but no CUDA compiler is seen: then hide the GPU from it."""
    if not has_cuda() or succeeds("from torch.utils import cpp_extension as c; c.CUDA_HOME + ''"):
        return {}
    say("  there is a GPU but no CUDA compiler (nvcc): MMCV's ops are built for the CPU alone, and")
    say("  detectors cannot use the GPU; to change that install nvcc, delete .venv and run again")
    return {"CUDA_VISIBLE_DEVICES": ""}


def install_project():
    alone = ("-e", ".", "-r", REQUIREMENTS / "tests-no-deps.txt")
    check(Job(pip_install("--no-deps", "--no-build-isolation", *alone)))
    check(Job([PYTHON, "-c", "import mmhcgnet, mmdet, mmpretrain, mmcv.ops"]))


STEPS = (
    # function, what is announced, what it depends on besides the steps before it
    (make_venv, "making .venv (10 s)", ()),
    (install_build_tools, "installing the build tools (20 s)", ("build.txt",)),
    (
        install_torch,
        "installing PyTorch (a download of 3 GB: 2 minutes and more, as the network goes)",
        ("torch.txt", "constraints-onedl.txt"),
    ),
    (
        build_mmcv,
        "compiling MMCV (2 to 5 minutes on 2 cores the first time; later its wheel is in pip's "
        "cache) and installing what does not need it",
        ("onedl.txt", "runtime.txt", "tests.txt"),
    ),
    (install_mm_packages, "installing MMCV, MMDetection and MMPretrain (30 s)", ()),
    (
        install_project,
        "installing mmhcgnet itself and importing all of it (30 s)",
        ("setup.py", "tests-no-deps.txt"),
    ),
)


def plan():
    """Each step with its stamp's file and the hash that the stamp must hold."""
    # The project's place and the Python it runs on: links into both are all over .venv.
    digest = hashlib.sha256(f"{ROOT} {sys.version_info[:2]}".encode())
    for function, title, files in STEPS:
        for name in files:
            path = ROOT / name if name == "setup.py" else REQUIREMENTS / name
            digest.update(path.read_bytes())
        stamp = VENV / (".mmhcgnet-" + function.__name__.replace("_", "-"))
        yield function, title, stamp, digest.hexdigest()


def set_up():
    steps = list(plan())
    done = 0
    while in_venv() and done < len(steps):
        stamp, digest = steps[done][2:]
        if not (stamp.is_file() and stamp.read_text() == digest):
            break
        done += 1
    if done == len(steps):
        return
    problems = check_system()
    if not list(VENV.glob("lib/python*/site-packages/torch/__init__.py")):
        problems += check_disk(ROOT)
    if problems:
        raise SetupError("\n".join(problems))
    started = time.monotonic()
    say("the environment is made in .venv: 3 to 10 minutes the first time, seconds afterwards")
    for number, (function, title, stamp, digest) in enumerate(steps[done:], done + 1):
        say(f"{number}/{len(steps)} {title}")
        function()
        stamp.write_text(digest)
    say(f"done after {duration(time.monotonic() - started)}")


def in_venv():
    return Path(sys.prefix).resolve() == VENV.resolve()


def main():
    if not in_venv() and pip_works():
        # From here on, "this Python" is the one that the environment has.
        os.execv(str(PYTHON), [str(PYTHON)] + sys.argv)
    argparse.ArgumentParser(description=__doc__).parse_args()
    for name in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, lambda *_: sys.exit("[set-up] ended from outside"))
    problems = check_python(sys.version_info)
    if problems:
        sys.exit("[set-up] " + problems[0])
    # Two set-ups at once (make demo next to make test) would spoil one another's work.
    with open(__file__) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            say("another set-up is running here; waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            set_up()
        except SetupError as error:
            sys.exit("[set-up] " + str(error))
        except KeyboardInterrupt:
            sys.exit("\n[set-up] interrupted; run the same command again to continue from here")


if __name__ == "__main__":
    main()
