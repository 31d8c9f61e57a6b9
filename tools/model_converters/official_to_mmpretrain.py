"""Convert a classifier of HCGNet's authors to a checkpoint for MMPretrain and our configs."""

from mmhcgnet import convert, engine


def main() -> None:
    source = "HCGNet_B_best.pth.tar or another checkpoint of the authors' classification program"
    parser = engine.make_parser(__doc__, source, "hcgnet-<arch>_3rdparty_<data set>.pth")
    args = parser.parse_args()
    with engine.report_usage_errors():
        engine.convert_file(convert.official_to_mmpretrain, **vars(args))


if __name__ == "__main__":
    main()
