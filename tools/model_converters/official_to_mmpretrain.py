"""Convert a classifier of HCGNet's authors to a checkpoint for MMPretrain and our configs."""

from mmhcgnet import cli, convert


def main() -> None:
    source = "HCGNet_B_best.pth.tar or another checkpoint of the authors' classification program"
    parser = cli.make_parser(__doc__, source, "hcgnet-<arch>_3rdparty_<data set>.pth")
    args = parser.parse_args()
    with cli.report_usage_errors():
        cli.convert_file(convert.official_to_mmpretrain, **vars(args))


if __name__ == "__main__":
    main()
