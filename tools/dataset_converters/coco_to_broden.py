"""Write a COCO data set with masks in the format of Broden, to dissect networks on it.

The data set's categories become Broden's objects; the colour of every pixel is named, too.
"""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", metavar="JSON", help="COCO's instances, with masks")
    parser.add_argument("images", metavar="IMAGES", help="folder of the images")
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--images-taken",
        type=int,
        default=0,
        metavar="N",
        help="take the first N images (default: 0, all)",
    )
    parser.add_argument(
        "--side", type=int, default=112, help="longer side of the label maps (default: 112)"
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    from mmhcgnet.cli.report import report_usage_errors
    from mmhcgnet.datasets.coco_to_broden import write_broden

    with report_usage_errors():
        count = write_broden(
            args.annotations, args.images, args.out, count=args.images_taken, side=args.side
        )
        print(f"{args.out}: {count} images")


if __name__ == "__main__":
    main()
