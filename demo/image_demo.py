"""Show what a detector or classifier finds in images or a video.

INPUT is an image, a folder of them, a pattern such as 'photos/*.jpg', or a video. MODEL is a config
with its CHECKPOINT, an exported file (.onnx, .xml), or the name of a network that ships; by default
it is the detector of drawn shapes that ships.
Annotated images or a video and predictions.json (of detectors, COCO's results format, with
categories counted from 1 in the order of the classes) go to --out-dir.
"""

import argparse
import sys
from pathlib import Path


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("input", metavar="INPUT")
    parser.add_argument("model", metavar="MODEL", nargs="?")
    parser.add_argument("checkpoint", metavar="CHECKPOINT", nargs="?")
    parser.add_argument("--out-dir", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument(
        "--score-thr", type=float, default=0.3, help="do not draw objects below it (default: 0.3)"
    )
    parser.add_argument("--batch-size", type=int, default=1, help="images at once (default: 1)")
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, … (default: cpu)")
    parser.add_argument(
        "--engine", choices=["onnxruntime", "openvino"], help="what runs an exported file"
    )
    args = parser.parse_args()
    if args.batch_size < 1:
        parser.error("--batch-size must be 1 or more")
    return args


def run(args: argparse.Namespace) -> int:
    """Predict, and return the exit code."""
    from mmhcgnet.cli import check_output, images

    out = args.out_dir
    is_video = images.is_video(args.input)
    files = [] if is_video else images.find_images(args.input, out)
    predictor = images.open_predictor(
        args.model or images.DETECTOR, args.checkpoint, args.device, args.engine
    )
    check_output(str(out / images.RECORDS))
    if is_video:
        images.predict_video(predictor, args.input, out, args.score_thr, args.batch_size)
        failed = []
    else:
        failed = images.predict_images(predictor, files, out, args.score_thr, args.batch_size)
    print(f"Images and predictions.json are in {out}.")
    if failed:
        skipped = f"{len(failed)} of {len(files)} files were skipped"
        print(f"error: {skipped}, as named above.", file=sys.stderr)
    return 1 if failed else 0


def main() -> None:
    args = parse_args()
    try:
        from mmhcgnet.cli.report import report_usage_errors
    except KeyboardInterrupt:
        sys.exit(130)
    with report_usage_errors():
        sys.exit(run(args))


if __name__ == "__main__":
    main()
