"""Write CIFAR-10 as image files, OUT/{train,test}/CLASS/NNNNN.png, numbered as its own files are.

DATA is the folder in which MMPretrain keeps CIFAR-10; what is not there is downloaded (170 MB).
"""

import argparse
import sys
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA", help="for example data/cifar10")
    parser.add_argument("out", type=Path, metavar="OUT", help="for example data/cifar10_folders")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    """Write the images."""
    from mmengine.utils import ProgressBar
    from mmpretrain.datasets import CIFAR10

    from mmhcgnet.cli import UsageError
    from mmhcgnet.datasets.png import write_png

    for split in ("train", "test"):
        try:
            dataset = CIFAR10(str(args.data), split)
        except (AssertionError, OSError, RuntimeError) as error:
            raise UsageError(
                f"CIFAR-10 cannot be read from {args.data} or downloaded ({error}): fetch "
                f"{CIFAR10.url} and unpack it there."
            ) from error
        folders = [args.out / split / name for name in dataset.CLASSES]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)
        bar = ProgressBar(len(dataset), file=sys.stderr)
        for number in range(len(dataset)):
            sample = dataset.get_data_info(number)
            path = folders[sample["gt_label"]] / f"{number:05d}.png"
            write_png(path, sample["img"])
            bar.update()
        print(f"\n{args.out / split}: {len(dataset)} images of {len(folders)} classes")


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    from mmhcgnet.cli.report import report_usage_errors

    with report_usage_errors():
        run(args)


if __name__ == "__main__":
    main()
