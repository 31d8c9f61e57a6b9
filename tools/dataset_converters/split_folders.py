"""List the images of class folders for training and validation.

DATA/train/CLASS/NAME is what is there; DATA/train.txt and DATA/val.txt are written, for the
ann_file of MMPretrain's CustomDataset. Every class gives the same share to validation. Hidden files
and folders are left out. The same seed gives the same lists.
"""

import argparse
import random
import sys
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument(
        "--share", type=float, default=0.1, help="of the images for validation (default: 0.1)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--force", action="store_true", help="overwrite lists that are there")
    args = parser.parse_args()
    if not 0 < args.share < 1:
        parser.error("--share must lie between 0 and 1")
    return args


def run(args: argparse.Namespace) -> None:
    """Write the lists."""
    from mmhcgnet.cli import UsageError, check_overwriting, write_atomically
    from mmhcgnet.paths import images_below

    root = args.data / "train"
    if not root.is_dir():
        raise UsageError(f"{root} does not exist: it holds a folder for each class.")
    classes = sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] != ".")
    lists: dict[str, list[str]] = dict(train=[], val=[])
    for label, folder in enumerate(classes):
        files = images_below(folder)
        held_out = round(args.share * len(files))
        if not 0 < held_out < len(files):
            raise UsageError(
                f"{folder} has {len(files)} images, of which {held_out} would be for validation: "
                "give it more images, or choose another share."
            )
        random.Random(f"{args.seed} {folder.name}").shuffle(files)
        for name, part in (("val", files[:held_out]), ("train", files[held_out:])):
            lists[name] += [f"{path.relative_to(root).as_posix()} {label}" for path in sorted(part)]
    if not classes:
        raise UsageError(f"{root} has no folders: it holds one for each class.")
    contents = {name: ("\n".join(lines) + "\n").encode() for name, lines in lists.items()}
    for name, content in contents.items():
        check_overwriting(str(args.data / f"{name}.txt"), force=args.force, content=content)
    for name, lines in lists.items():
        path = args.data / f"{name}.txt"
        write_atomically(str(path), contents[name])
        print(f"{path}: {len(lines)} images of {len(classes)} classes")


def main() -> None:
    args = parse_args()
    try:
        from mmhcgnet.cli.report import report_usage_errors
    except KeyboardInterrupt:
        sys.exit(130)
    with report_usage_errors():
        run(args)


if __name__ == "__main__":
    main()
