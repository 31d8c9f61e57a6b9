"""Find what is wrong with the images and annotations of a config's data sets."""

import argparse
import os
import sys


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Exit code: 0 if nothing is wrong or all of it is harmless (a run leaves such "
        "annotations out and converts such images), 1 if something is wrong, 2 if nothing could "
        "be checked.",
    )
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--phases",
        nargs="+",
        choices=["train", "val", "test"],
        default=["train", "val", "test"],
        help="whose data sets to check (default: all)",
    )
    parser.add_argument(
        "--no-images", action="store_true", help="check annotations and names and open no image"
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that decode images, 0 for none besides this one (default: %(default)s)",
    )
    parser.add_argument("--strict", action="store_true", help="exit with 1 for what is harmless")
    parser.add_argument("--json", metavar="FILE", help="write all that is found as JSON, too")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. train_dataloader.dataset.data_root=DIR",
    )
    return parser.parse_args()


def check(args: argparse.Namespace) -> bool:
    """Print and write what is found; return whether all is well."""
    import json

    from mmhcgnet import cli
    from mmhcgnet.datasets.checks.of_config import check_files, inspect_data, inspect_set_images
    from mmhcgnet.errors import readable

    if args.workers < 0:
        raise cli.UsageError(f"--workers counts processes, got {args.workers}.")
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.leave_out_noise(cfg)
    if args.json:
        cli.check_output(args.json, cfg)
    loaders = [f"{phase}_dataloader" for phase in args.phases]
    if not any(cfg.get(loader) for loader in loaders):
        raise cli.UsageError(f"The config {args.config} has no {' and no '.join(loaders)}.")
    with cli.explain_misspelt_types():
        check_files(cfg, *args.phases)
        sets = list(inspect_data(cfg, *args.phases, thorough=True))
    if not sets:
        raise cli.UsageError(
            f"The config {args.config} has no data set on this file system that can be checked: "
            "COCO annotations, folders or lists of images, and CIFAR can."
        )

    wrong = 0
    for found in sets:
        if not args.no_images:
            inspect_set_images(found, args.workers, progress)
        print(f"{readable(found.place)}: {len(found.images):,} images ({', '.join(found.keys)})")
        for finding in found.findings:
            wrong += not finding.harmless or args.strict
            level = "harmless" if finding.harmless else "WRONG"
            print(f"  {level:8} {finding.count:>7,} x {finding.kind}: {readable(finding.remedy)}")
            for example in finding.examples:
                print(f"{'':21}{readable(example)}")
        if not found.findings:
            print("  nothing found")
    if args.json:
        report = [found.report() for found in sets]
        cli.write_atomically(args.json, (json.dumps(report, indent=2) + "\n").encode())
    print(f"kinds of faults to fix: {wrong}")
    return not wrong


def progress(done: int, total: int) -> None:
    """Show on stderr how many images are done; on a terminal in place, else now and then."""
    terminal = sys.stderr.isatty()
    if done == total or done % (50 if terminal else 10000) == 0:
        end = "\r" if terminal and done < total else "\n"
        print(f"  {done:,} of {total:,} images", end=end, file=sys.stderr, flush=True)


def main() -> None:
    args = parse_args()
    from mmhcgnet.cli.report import report_usage_errors

    with report_usage_errors():
        sys.exit(0 if check(args) else 1)


if __name__ == "__main__":
    main()
