"""Write a config that inherits another one and has HCGNet in the place of its ResNet."""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog="Example: adapt_config.py mmdet::retinanet/retinanet_r50_fpn_1x_coco.py -o my.py",
    )
    parser.add_argument(
        "config", help="config file, or one that a toolbox ships, as PACKAGE::PATH/IN/CONFIGS.py"
    )
    parser.add_argument("-o", "--out", required=True, metavar="FILE", help="the config to write")
    parser.add_argument("--arch", choices=["B", "C"], default="B", help="(default: B)")
    parser.add_argument(
        "--pretrained",
        metavar="CKPT",
        help="checkpoint with the backbone's weights under 'backbone.'",
    )
    parser.add_argument(
        "--backbone",
        nargs="+",
        default=[],
        metavar="KEY=VALUE",
        help="arguments of the backbone that come before the config's, e.g. frozen_stages=-1 "
        "norm_eval=False to train all of it from scratch",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    return parser.parse_args()


def adapt(args: argparse.Namespace) -> None:
    """Write the config and say what it changes."""
    from mmhcgnet import cli

    if not args.out.endswith(".py"):
        raise cli.UsageError(f"A config is written to a file that ends in .py, not {args.out}.")
    backbone = cli.parse_options(args.backbone)
    cfg = cli.load_config(cli.shipped_config(args.config))
    cli.check_output(args.out, cfg)
    adapted, report = cli.adapt_config(cfg, args.arch, args.pretrained, **backbone)
    base = cli.base_of(args.config, args.out)
    content = cli.write_child(base, cfg, adapted).encode()
    cli.check_overwriting(args.out, force=args.force, content=content)
    cli.write_atomically(args.out, content)
    print(report)
    print(f"{args.out} inherits {args.config}: train it with tools/train.py {args.out}")


def main() -> None:
    args = parse_args()
    from mmhcgnet.cli.report import report_usage_errors

    with report_usage_errors():
        adapt(args)


if __name__ == "__main__":
    main()
