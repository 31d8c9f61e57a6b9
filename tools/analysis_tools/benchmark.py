"""Measure models side by side: time, operator calls, and memory kept for the backward pass.

MODEL is NAME or NAME:WORD:WORD. Names: hcgnet-a1 to hcgnet-c; torchvision:resnet50; a backbone's
type, mmdet.ResNet; a config, mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py or by name. Words:

  plain     HCGNet trained layer by layer, as in the paper, instead of in the memory-saving form
  with_cp   recomputing in the backward pass
  nchw      in PyTorch's default memory format
  deploy    folded for inference
  compile   torch.compile, without a graph break
  backbone  the backbone of a config alone
  openvino, onnxruntime
            exported, and run by that engine
  KEY=VALUE an argument of the model (depth=50) or a setting of the config (model.backbone.arch=C)

Ratios refer to the first model. Weights and images are random, and nothing is downloaded.
"""

import argparse


def positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be above 0, got {value}")
    return value


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("models", nargs="+", metavar="MODEL")
    parser.add_argument(
        "--tasks",
        nargs="+",
        choices=["forward", "train"],
        default=["forward"],
        help="forward pass in eval mode, or forward and backward pass in training mode, without "
        "an optimizer (default: forward)",
    )
    parser.add_argument("--batch-sizes", nargs="+", type=positive, default=[8], help="default: 8")
    parser.add_argument(
        "--shape",
        nargs="+",
        type=int,
        default=[224],
        metavar=("H", "W"),
        help="height and width of the images, or a square's side (default: 224)",
    )
    parser.add_argument("--rounds", type=positive, default=20, help="default: 20")
    parser.add_argument(
        "--seconds",
        type=float,
        default=float("inf"),
        help="begin no further round after this time, but for the first three",
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=positive, help="threads on a CPU (default: PyTorch's)")
    parser.add_argument(
        "--channels-last",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="memory format of all models; in detectors, of the backbone alone (default: on)",
    )
    parser.add_argument(
        "--peak",
        action="store_true",
        help="measure peak memory, too: on a CPU, each model runs once more in a new process",
    )
    parser.add_argument("--json", metavar="FILE", help="write everything measured")
    parser.add_argument("--plot", metavar="FILE", help="draw a bar chart (PNG, PDF or SVG)")
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    import torch

    from mmhcgnet.analysis import report
    from mmhcgnet.analysis.benchmark import measuring as benchmark
    from mmhcgnet.analysis.complexity.counting import read_size
    from mmhcgnet.cli.options import check_output
    from mmhcgnet.cli.report import report_usage_errors
    from mmhcgnet.errors import UsageError

    with report_usage_errors():
        size = read_size(args.shape)
        if args.plot:
            report.check_matplotlib()
            if not args.plot.endswith((".png", ".pdf", ".svg")):
                raise UsageError(f"--plot draws a .png, .pdf or .svg, got {args.plot}.")
        for path in filter(None, (args.json, args.plot)):
            check_output(path)
        if args.threads:
            torch.set_num_threads(args.threads)
        results = []
        for task in args.tasks:
            for batch_size in args.batch_sizes:
                measured = benchmark.measure(
                    args.models,
                    task,
                    batch_size,
                    size,
                    rounds=args.rounds,
                    seconds=args.seconds,
                    device=args.device,
                    channels_last=args.channels_last,
                    peak=args.peak,
                )
                print(f"\n{task}, {batch_size} images of {size[0]} x {size[1]}\n")
                print(report.table(benchmark.HEADER, list(map(benchmark.as_row, measured))), "\n")
                results += measured
        if args.json:
            machine = benchmark.describe_machine(args.device)
            rows = [result.as_dict() for result in results]
            report.write_json(args.json, dict(machine=machine, results=rows))
        if args.plot:
            report.make_folder(args.plot)
            benchmark.figure(results).savefig(args.plot)


if __name__ == "__main__":
    main()
