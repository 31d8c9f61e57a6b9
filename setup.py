"""Packaging: everything but the set-up of linters and tests, which is in pyproject.toml."""

import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent


def stated(name: str) -> str:
    text = (ROOT / "mmhcgnet/version.py").read_text(encoding="utf-8")
    return re.search(rf'__{name}__ = "(.*)"', text)[1]


def requirements(name: str) -> list[str]:
    lines = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


class BuildWithMim(build_py):
    """Adds what `mim` looks for in `mmhcgnet/.mim`: copies in a wheel, links when editable."""

    def run(self):
        super().run()
        target = ROOT if self.editable_mode else Path(self.build_lib).resolve()
        mim = target / "mmhcgnet/.mim"
        # A second build must not keep files that are gone from the first one.
        shutil.rmtree(mim, ignore_errors=True)
        mim.mkdir(parents=True)
        for name in ("configs", "tools", "weights", "model-index.yml"):
            if self.editable_mode:
                (mim / name).symlink_to(os.path.relpath(ROOT / name, mim))
            elif (ROOT / name).is_dir():
                ignore = shutil.ignore_patterns("__pycache__", "*.py[cod]")
                shutil.copytree(ROOT / name, mim / name, ignore=ignore)
            else:
                shutil.copy2(ROOT / name, mim / name)


setup(
    name="mmhcgnet",
    version=stated("version"),
    description="HCGNet as a backbone for MMDetection and MMPretrain",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    keywords="computer vision, object detection, image classification, backbone, OpenMMLab",
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    url=stated("url") or None,
    project_urls={"Paper": "https://arxiv.org/abs/1908.09699"},
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.10",
    package_data={"mmhcgnet": ["py.typed"], "mmhcgnet_runtime": ["py.typed"]},
    packages=find_packages(include=["mmhcgnet", "mmhcgnet.*", "mmhcgnet_runtime"]),
    # No console scripts: `mim` takes the first installed file for the package's folder.
    install_requires=requirements("runtime"),
    extras_require={
        "onedl": requirements("onedl"),
        "onedl-mmseg": requirements("onedl-mmseg"),
        "openmmlab": requirements("openmmlab"),
        "openmmlab-mmseg": requirements("openmmlab-mmseg"),
        "mim": requirements("mminstall"),
        "analysis": requirements("analysis"),
        "deploy": requirements("deploy"),
        "demo": requirements("demo"),
        "tests": requirements("tests"),
    },
    cmdclass={"build_py": BuildWithMim},
    zip_safe=False,
)
