"""Write the weights of a trained model alone, to publish them: no optimiser, no state of a run."""

import argparse

from mmhcgnet import cli


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "src", help="a checkpoint; of a training with EMAHook the averaged weights are taken"
    )
    parser.add_argument(
        "dst", help="file to write; one that ends in .safetensors is written in that format"
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="in fp16, but for values that it cannot hold; models compute in fp32 as before",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="add the date and the first 8 digits of the SHA-256 to the file's name",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    with cli.report_usage_errors():
        cli.publish_file(**vars(args))


if __name__ == "__main__":
    main()
