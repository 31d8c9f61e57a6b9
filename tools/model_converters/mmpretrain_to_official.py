"""Convert a classifier trained with our configs to a checkpoint for the authors' program."""

from mmhcgnet import cli, convert


def main() -> None:
    source = "MMPretrain checkpoint of a classifier with HCGNet"
    parser = cli.make_parser(__doc__, source, "hcgnet-<arch>_official_<data set>.pth")
    args = parser.parse_args()
    with cli.report_usage_errors():
        cli.convert_file(convert.mmpretrain_to_official, **vars(args))


if __name__ == "__main__":
    main()
