"""Make the built-in data set ``shapes``: COCO format, class folders, panoptic and semantic maps."""

import argparse
import time

from mmhcgnet.datasets import shapes


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--out", default="data/shapes", help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="the same seed gives the same files")
    parser.add_argument("--images", type=int, default=4200, help="training images")
    parser.add_argument("--val-images", type=int, default=200, help="validation images")
    parser.add_argument("--size", type=int, default=128, help="longer side in pixels")
    parser.add_argument(
        "--classification",
        action="store_true",
        help="also make as many images in class folders, in OUT/classification",
    )
    parser.add_argument(
        "--panoptic",
        action="store_true",
        help="also make the same images with a label for every pixel, in OUT/panoptic: COCO's "
        "panoptic format, and semantic maps for MMSegmentation",
    )
    return parser.parse_args(argv)


class ProgressLines:
    """Print a line every few seconds, and one when a split is done."""

    def __init__(self, interval: float = 3.0) -> None:
        self.interval = interval
        self.started = self.printed = time.monotonic()
        self.split: str | None = None

    def __call__(self, split: str, done: int, wanted: int) -> None:
        now = time.monotonic()
        if split != self.split:
            self.split, self.started = split, now
        if done == wanted or now - self.printed >= self.interval:
            self.printed = now
            spent = now - self.started
            left = spent / done * (wanted - done)
            rest = f"about {left:.0f} s left" if done < wanted else f"{spent:.0f} s"
            print(f"  {split}: {done}/{wanted} images, {rest}", flush=True)


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    options = dict(seed=args.seed, images=args.images, val_images=args.val_images, size=args.size)
    jobs = [(shapes.write_detection, args.out)]
    if args.classification:
        jobs.append((shapes.write_classification, f"{args.out}/classification"))
    if args.panoptic:
        jobs.append((shapes.write_panoptic, f"{args.out}/panoptic"))
    for write, out in jobs:
        print(f"{out}: {args.images} + {args.val_images} images", flush=True)
        try:
            written = write(out, **options, progress=ProgressLines())
        except ValueError as error:
            raise SystemExit(f"make_shapes.py: {error}") from None
        except OSError as error:
            raise SystemExit(
                f"make_shapes.py: cannot write to {out} ({error}); choose another --out folder."
            ) from None
        except KeyboardInterrupt:
            raise SystemExit(
                f"make_shapes.py: interrupted; {out} is incomplete, run the same command again."
            ) from None
        print(f"{out}: done" if written else f"{out}: the same set already exists", flush=True)


if __name__ == "__main__":
    main()
