"""Convert a checkpoint to that of the deployed model, for inference alone; there is no way back.

The deployed form of a network such as HCGNet computes the same in less time: norms are folded into
the convolutions. For any model with parts that have MMPretrain's method switch_to_deploy.
"""

import argparse

from mmhcgnet import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file of the model")
    parser.add_argument(
        "src", help="its checkpoint; of a training with EMAHook the averaged weights are taken"
    )
    cli.add_output_arguments(parser, "SRC with _deploy at the end of its name")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.report_usage_errors():
        cli.deploy_file(**vars(args))


if __name__ == "__main__":
    main()
