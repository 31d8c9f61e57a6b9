"""Install a wheel of mmhcgnet into a new environment, outside the checkout, and train one step.

The environment, ``build/wheel-env``, takes 8 GB and is removed at the end. Compiling MMCV takes
minutes unless its wheel is in pip's cache.
Usage: python tools/misc/try_wheel.py dist/mmhcgnet-0.1.0-py3-none-any.whl
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENV = ROOT / "build/wheel-env"
STEP = ["train_dataloader.dataset.indices=2", "train_dataloader.batch_size=2"]
STEP += ["train_dataloader.num_workers=0", "max_epochs=1", "train_cfg.max_epochs=1"]


def run(*command: object, cwd: Path = ROOT) -> None:
    command = list(map(str, command))
    print(f"[wheel] {' '.join(command)}", flush=True)
    subprocess.run(command, cwd=cwd, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("wheel", type=Path)
    wheel = parser.parse_args().wheel.resolve()
    if not wheel.is_file():
        sys.exit(f"error: {wheel} does not exist: build it first, with `make wheel`.")
    python, requirements = ENV / "bin/python", ROOT / "requirements"
    try:
        run(sys.executable, "-m", "venv", "--clear", ENV)
        run(python, "-m", "pip", "install", "-q", "-r", requirements / "torch.txt")
        run(python, "-m", "pip", "install", "-q", "-r", requirements / "build.txt")
        run(
            *(python, "-m", "pip", "install", "-q", "--no-build-isolation"),
            *("-c", requirements / "constraints-onedl.txt", f"{wheel}[onedl]"),
        )
        (package,) = ENV.glob("lib/python*/site-packages/mmhcgnet")
        tools, configs = package / ".mim/tools", package / ".mim/configs"
        with tempfile.TemporaryDirectory() as folder:
            shapes = tools / "dataset_converters/make_shapes.py"
            config = configs / "mask_rcnn/mask-rcnn_hcgnet-b_fpn-light_scratch_2e_shapes.py"
            run(python, shapes, "--images", 4, "--val-images", 2, cwd=Path(folder))
            run(
                *(python, tools / "train.py", config, "--no-validate", "--work-dir", "run"),
                *("--cfg-options", *STEP),
                cwd=Path(folder),
            )
            assert Path(folder, "run/epoch_1.pth").is_file()
    except subprocess.CalledProcessError as error:
        sys.exit(f"error: this command ended with exit code {error.returncode}; see above.")
    finally:
        shutil.rmtree(ENV, ignore_errors=True)
    print("[wheel] It installs, and trains one step.")


if __name__ == "__main__":
    main()
