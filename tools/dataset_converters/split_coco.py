"""Split a file in COCO's format into one for training and one for validation.

train.json and val.json are written next to ANNOTATIONS, with the same categories. Images are drawn
at random; the same seed draws the same. Images of one scene, such as frames of a video, belong into
one part: split those by hand.
"""

import argparse
import random
import sys
from collections import Counter
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("annotations", type=Path, metavar="ANNOTATIONS")
    parser.add_argument(
        "--share", type=float, default=0.2, help="of the images for validation (default: 0.2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="default: 0")
    parser.add_argument("--force", action="store_true", help="overwrite files that are there")
    args = parser.parse_args()
    if not 0 < args.share < 1:
        parser.error("--share must lie between 0 and 1")
    return args


def run(args: argparse.Namespace) -> None:
    """Write both files."""
    import json

    from mmhcgnet.cli import UsageError, check_overwriting, write_atomically
    from mmhcgnet.datasets.checks.coco import inspect_references, read_coco

    content, findings = read_coco(str(args.annotations), polygons=True)
    if findings := findings or inspect_references(content, str(args.annotations)):
        raise UsageError(findings[0].sentence)
    numbers = [image["id"] for image in content["images"]]
    names = {category["id"]: str(category["name"]) for category in content["categories"]}
    held_out = round(args.share * len(numbers))
    if not 0 < held_out < len(numbers):
        raise UsageError(
            f"{args.annotations} has {len(numbers)} images, of which {held_out} would be for "
            "validation: give it more images, or choose another share."
        )
    drawn = set(random.Random(args.seed).sample(sorted(numbers), held_out))
    parts = dict(train=set(numbers) - drawn, val=drawn)
    paths = {name: args.annotations.with_name(f"{name}.json") for name in parts}
    halves = {
        # All else, such as licences and image ids, stays as it is.
        name: dict(
            content,
            images=[image for image in content["images"] if image["id"] in part],
            annotations=[note for note in content["annotations"] if note["image_id"] in part],
        )
        for name, part in parts.items()
    }
    contents = {name: json.dumps(half).encode() for name, half in halves.items()}
    for name, path in paths.items():
        source = str(args.annotations)
        check_overwriting(str(path), source, force=args.force, content=contents[name])

    counts = {}
    for name, part in parts.items():
        write_atomically(str(paths[name]), contents[name])
        half = halves[name]
        counts[name] = Counter(note["category_id"] for note in half["annotations"])
        print(f"{paths[name]}: {len(part)} images, {len(half['annotations'])} objects")
    for name, found in counts.items():
        absent = sorted(names[number] for number in names if not found[number])
        if absent:
            print(f"warning: {paths[name]} has no object of: {', '.join(absent)}", file=sys.stderr)


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
