"""Convert a classifier trained with our configs to a checkpoint for the authors' program."""

from mmhcgnet import convert, engine


def main() -> None:
    source = "MMPretrain checkpoint of a classifier with HCGNet"
    parser = engine.make_parser(__doc__, source, "hcgnet-<arch>_official_<data set>.pth")
    args = parser.parse_args()
    with engine.report_usage_errors():
        engine.convert_file(convert.mmpretrain_to_official, **vars(args))


if __name__ == "__main__":
    main()
