"""Export a model to ONNX or OpenVINO: a classifier, a whole detector, or a backbone.

The file holds all that lies between RGB images in bytes and results, in standard operators alone,
and says how images are to be resized. mmhcgnet_runtime runs it without PyTorch.

HCGNet is exported in a form of its own: engines fold norms by themselves, and are quicker with
the layers as they are than with the deployed form, which is made for PyTorch.
"""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config file of the model")
    parser.add_argument(
        "checkpoint",
        help="its checkpoint; of a training with EMAHook the averaged weights are taken",
    )
    parser.add_argument(
        "-o", "--output", help="file to write (default: CHECKPOINT, ending in .onnx or .xml)"
    )
    parser.add_argument(
        "--format",
        choices=["onnx", "openvino"],
        help="default: what the ending of --output says, else onnx",
    )
    parser.add_argument(
        "--half",
        action="store_true",
        help="store weights in half precision; engines compute in single precision as ever",
    )
    parser.add_argument(
        "--backbone", action="store_true", help="the backbone alone, with all its maps"
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. model.test_cfg.rcnn.score_thr=0.3",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    from mmhcgnet.cli.export import export_file
    from mmhcgnet.cli.report import report_usage_errors

    with report_usage_errors():
        export_file(**vars(args))


if __name__ == "__main__":
    main()
