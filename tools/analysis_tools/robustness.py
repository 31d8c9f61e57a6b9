"""Attack MMPretrain classifiers: top-1 accuracy on the test data after FGSM and PGD.

As in figure 5 of the paper: images in [0, 1], attacks by foolbox. PGD begins at FGSM's point and
keeps each image's best iterate, so that it is never weaker. Results are written to --json every
few seconds; the same command continues from there, and further models, attacks and sizes are added.
"""

import argparse
import os


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, got {value}")
    return value


def not_negative(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must not be below 0, got {value}")
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "models",
        nargs="+",
        metavar="CONFIG CHECKPOINT",
        help="config of a classifier and its weights, one pair after the other",
    )
    parser.add_argument(
        "--names", nargs="+", help="what to call the models (default: the configs' names)"
    )
    parser.add_argument(
        "--attacks",
        nargs="+",
        choices=["fgsm", "pgd"],
        default=["fgsm", "pgd"],
        help="default: both",
    )
    parser.add_argument(
        "--epsilons",
        nargs="+",
        type=float,
        default=[0, 0.001, 0.002, 0.003, 0.004, 0.005],
        metavar="E",
        help="the largest change of a pixel's channel, which is in [0, 1]; 0 means no attack "
        "(default: the paper's, 0 to 0.005)",
    )
    parser.add_argument("--pgd-steps", type=positive, default=20, help="default: 20")
    parser.add_argument(
        "--images",
        type=not_negative,
        default=0,
        metavar="N",
        help="images to attack, spread evenly over the test data (default: 0, all)",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--json",
        metavar="FILE",
        default="work_dirs/robustness.json",
        help="file of results, which are kept and continued (default: %(default)s)",
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the figure (PNG, PDF or SVG)")
    parser.add_argument(
        "--paper",
        action="store_true",
        help="add the paper's values, of FGSM on ImageNet, to table and figure (dotted)",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of all configs, e.g. test_dataloader.batch_size=16",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    from mmhcgnet import cli
    from mmhcgnet.analysis import report
    from mmhcgnet.cli.options import check_output
    from mmhcgnet.cli.report import report_usage_errors
    from mmhcgnet.engine.models import check_device
    from mmhcgnet.errors import UsageError

    with report_usage_errors():
        configs, checkpoints = args.models[::2], args.models[1::2]
        if len(configs) > len(checkpoints):
            raise UsageError(f"Give a checkpoint after each config: {configs[-1]} has none.")
        stems = [os.path.splitext(os.path.basename(config))[0] for config in configs]
        names = args.names or stems
        if len(names) != len(configs) or len(set(names)) < len(names):
            raise UsageError("Give each model a name of its own with --names.")
        check_device(args.device)
        if args.plot:
            report.check_matplotlib()
            if not args.plot.endswith((".png", ".pdf", ".svg")):
                raise UsageError(f"--plot draws a .png, .pdf or .svg, got {args.plot}.")
            check_output(args.plot)
        for config in configs:
            cli.leave_out_noise(cli.load_config(config, args.cfg_options))
        from mmhcgnet.analysis.robustness import attacks
        from mmhcgnet.analysis.robustness import evaluation as robustness

        epsilons = attacks.check_epsilons(args.epsilons)
        chosen = [f"pgd-{args.pgd_steps}" if a == "pgd" else a for a in dict.fromkeys(args.attacks)]
        cells = robustness.cells_of(chosen, epsilons)
        results = robustness.Results(args.json)
        # All of them first: a mistake in the last one is reported before the first one's hours.
        subjects = [
            robustness.Subject(name, config, checkpoint, args.images, args.cfg_options)
            for name, config, checkpoint in zip(names, configs, checkpoints, strict=True)
        ]
        for subject in subjects:
            results.begin(subject, cells, args.device)
        results.save()
        for subject in subjects:
            robustness.measure(subject, results, cells, args.device)
        shown = (names, results, chosen, epsilons, args.paper)
        print("Top-1 accuracy in per cent\n")
        print(report.table(*robustness.rows(*shown)))
        if args.plot:
            report.make_folder(args.plot)
            robustness.figure(*shown).savefig(args.plot)


if __name__ == "__main__":
    main()
