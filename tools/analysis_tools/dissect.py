"""Find out which concepts the units of a network detect (network dissection), on Broden.

DATA is a folder in the format of Broden: index.csv, label.csv, category.csv and images. Written are
units.csv and units.json, a row for each unit, and page.html with the images in which each unit is
largest. A run that was interrupted continues when the same command is given again.

With --compare, the results of other models stand in the same table and chart; without CONFIG and
CHECKPOINT nothing is computed.
"""

import argparse


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, got {value}")
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config",
        nargs="?",
        metavar="CONFIG",
        help="config of the model; another package's as mmpretrain::resnet/resnet50_8xb32_in1k.py",
    )
    parser.add_argument("checkpoint", nargs="?", metavar="CHECKPOINT", help="its weights")
    parser.add_argument("--data", metavar="DATA", help="folder in the format of Broden")
    parser.add_argument(
        "--layer",
        metavar="NAME",
        help="module whose maps are taken (default: the backbone's output, its last map)",
    )
    parser.add_argument(
        "--quantile",
        type=float,
        default=0.005,
        help="share of a unit's activations above its threshold (default: 0.005)",
    )
    parser.add_argument(
        "--iou", type=float, default=0.04, help="IoU that a detector exceeds (default: 0.04)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=0,
        metavar="N",
        help="take N images, spread evenly over the index (default: 0, all)",
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        type=int,
        metavar=("H", "W"),
        help="height and width to which images are resized, or a square's side (default: as the "
        "config tests)",
    )
    parser.add_argument("--batch-size", type=positive, default=32, help="default: 32")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that read the data (default: 0)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--memory",
        type=float,
        default=2,
        metavar="GB",
        help="what the activations that give exact thresholds may take; if they need more, a "
        "random share of the positions gives them, with an error that is printed (default: 2)",
    )
    parser.add_argument(
        "--name", help="what tables and charts call the model (default: the config's)"
    )
    parser.add_argument(
        "--out", metavar="DIR", help="default: work_dirs/dissection/ and the config's name"
    )
    parser.add_argument(
        "--page-mb",
        type=float,
        default=20,
        metavar="MB",
        help="size of page.html at most; 0 writes none (default: 20)",
    )
    parser.add_argument(
        "--compare", nargs="+", default=[], metavar="FILE", help="units.json of other models"
    )
    parser.add_argument(
        "--plot", metavar="FILE", help="draw the bar chart of all models (PNG, PDF or SVG)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. model.backbone.deploy=True",
    )
    return parser.parse_args()


def dissect(args: argparse.Namespace) -> dict:
    """Dissect a model, write its files and return its result."""
    import os
    from pathlib import Path

    from mmhcgnet import cli
    from mmhcgnet.analysis import report
    from mmhcgnet.analysis.complexity.counting import input_shape, read_size
    from mmhcgnet.analysis.dissection import results as dissection_report
    from mmhcgnet.analysis.dissection.units import Dissection, Probe, describe, setup_of
    from mmhcgnet.datasets.broden import Broden
    from mmhcgnet.engine.configs import channel_order
    from mmhcgnet.engine.models import load_model

    data = Broden(args.data, args.images)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.leave_out_noise(cfg)
    cli.check_sections(cfg, "model")
    size = input_shape(cfg, args.shape and read_size(args.shape))[1:]
    model = load_model(cfg, args.checkpoint, args.device)
    name = args.name or Path(args.config).stem
    out = args.out or os.path.join("work_dirs/dissection", Path(args.config).stem)
    dissection = Dissection(
        Probe(model, args.layer),
        data,
        size,
        channel_order(cfg),
        folder=out,
        setup=setup_of(cfg, args.checkpoint),
        quantile=args.quantile,
        batch_size=args.batch_size,
        workers=args.workers,
        memory=args.memory * 1e9,
    )
    dissection.run()
    if dissection.quantile_error:
        print(
            f"Thresholds are from a random share of the positions: {args.quantile:.4%} of the "
            f"activations exceed them, with a standard error of {dissection.quantile_error:.4%}."
        )
    result = dict(
        kind=dissection_report.KIND,
        name=name,
        config=args.config,
        checkpoint=args.checkpoint,
        layer=args.layer or "backbone",
        data=args.data,
        images=len(data),
        shape=size,
        quantile=args.quantile,
        quantile_error=dissection.quantile_error,
        categories=data.categories,
        units=describe(dissection, data),
    )
    report.write_json(os.path.join(out, "units.json"), result)
    table = dissection_report.as_csv(result["units"])
    Path(out, "units.csv").write_text(table, encoding="utf-8")
    if args.page_mb:
        tiles = dissection_report.draw_tiles(dissection)
        page = dissection_report.page(result, tiles, args.iou, args.page_mb * 1e6)
        Path(out, "page.html").write_text(page, encoding="utf-8")
    print(f"Written to {out}: {', '.join(sorted(os.listdir(out)))}")
    return result


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    from mmhcgnet.analysis import report
    from mmhcgnet.analysis.dissection import results as dissection_report
    from mmhcgnet.cli.options import check_output
    from mmhcgnet.cli.report import report_usage_errors
    from mmhcgnet.errors import UsageError

    with report_usage_errors():
        given = [value is not None for value in (args.config, args.checkpoint, args.data)]
        if any(given) and not all(given):
            raise UsageError("Dissection takes CONFIG, CHECKPOINT and --data.")
        if not any(given) and not args.compare:
            raise UsageError("Give CONFIG, CHECKPOINT and --data, or results to --compare.")
        if not 0 <= args.iou < 1:
            raise UsageError(f"--iou must be from 0 to 1, got {args.iou}.")
        if args.memory <= 0:
            raise UsageError(f"--memory must be above 0, got {args.memory}.")
        if args.plot:
            report.check_matplotlib()
            if not args.plot.endswith((".png", ".pdf", ".svg")):
                raise UsageError(f"--plot draws a .png, .pdf or .svg, got {args.plot}.")
            check_output(args.plot)
        others = [dissection_report.read_result(path) for path in args.compare]
        results = [dissect(args), *others] if all(given) else others
        print(report.table(*dissection_report.comparison(results, args.iou)))
        if args.plot:
            report.make_folder(args.plot)
            dissection_report.figure(results, args.iou).savefig(args.plot)


if __name__ == "__main__":
    main()
