"""Measure what HCGNet promises about speed and memory, each against its target, in one run.

Every comparison runs its models in turn, so that ratios hold on a machine that is not quiet all the
time, too; absolute times want a quiet one. On two cores it takes some 15 minutes.
"""

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmhcgnet.analysis.benchmark.measuring import Result


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Models that are measured in turn.

    Args:
        task: ``'forward'`` or ``'train'``.
        batch_size: Images in a batch.
        size: Height and width of the images in pixels.
        rounds: How often each model runs at most.
        seconds: Time after which no further round begins.
        models: Names of the models, by what they are to the targets.
    """

    task: str
    batch_size: int
    size: tuple[int, int]
    rounds: int
    seconds: float
    models: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Target:
    """What a comparison is to show.

    Args:
        what: What is measured.
        comparison: Name of the comparison.
        value: Computes it from the results, by what the models are.
        bound: What it must reach; ``None`` where it is only reported.
        least: Whether the bound is a lower one.
        floor: What it must reach at the very least.
        form: How to write it.
    """

    what: str
    comparison: str
    value: Callable[[Mapping[str, "Result"]], float]
    bound: float | None = None
    least: bool = False
    floor: float | None = None
    form: str = "{:.2f}×"


OURS = "configs/mask-rcnn_hcgnet-b_fpn_1x_coco.py"
RESNET_FPN = "mmdet::mask_rcnn/mask-rcnn_r50_fpn_1x_coco.py"
# As small as it can be with a transition in it: what compiles in a minute.
SMALL = "mmhcgnet.HCGNet:arch.depths=(2,2):arch.growth_rates=(16,16):arch.stem=cifar"
# One block, which doubles its depth twice.
DEPTHS = (6, 12, 24)
BLOCK = "mmhcgnet.HCGNet:arch.depths=({},):arch.growth_rates=(32,):arch.stem=cifar"

_FORWARD = dict(resnet="torchvision:resnet50", plain="hcgnet-b:plain", deployed="hcgnet-b:deploy")
_TRAIN = dict(plain="hcgnet-b:plain", default="hcgnet-b", with_cp="hcgnet-b:with_cp")
_DETECT = dict(resnet=RESNET_FPN, plain=OURS, deployed=f"{OURS}:deploy")
COMPARISONS = {
    "forward-8": Comparison("forward", 8, (224, 224), 30, 60, _FORWARD),
    "forward-1": Comparison("forward", 1, (224, 224), 100, 40, _FORWARD),
    "train-16": Comparison("train", 16, (224, 224), 12, 120, _TRAIN),
    "train-cifar": Comparison(
        "train", 128, (32, 32), 6, 150, dict(nchw="hcgnet-a1:nchw", default="hcgnet-a1")
    ),
    "growth": Comparison("train", 2, (32, 32), 1, 0, {str(d): BLOCK.format(d) for d in DEPTHS}),
    "mask-rcnn-forward": Comparison("forward", 1, (800, 1333), 10, 150, _DETECT),
    "mask-rcnn-train": Comparison(
        "train", 1, (800, 1333), 6, 200, dict(resnet=RESNET_FPN, default=OURS)
    ),
    "compile-forward": Comparison(
        "forward",
        *(16, (32, 32), 50, 20),
        dict(eager=f"{SMALL}:deploy", compiled=f"{SMALL}:deploy:compile"),
    ),
    "compile-train": Comparison(
        "train", 16, (32, 32), 50, 20, dict(eager=SMALL, compiled=f"{SMALL}:compile")
    ),
}
ENGINES = dict(openvino=(1.85, 1.85), onnxruntime=(1.5, 1.5))  # targets at batch 1 and 8
for _engine in ENGINES:
    for _batch, _rounds in ((1, 100), (8, 30)):
        COMPARISONS[f"{_engine}-{_batch}"] = Comparison(
            "forward",
            *(_batch, (224, 224), _rounds, 40),
            dict(resnet=f"torchvision:resnet50:{_engine}", ours=f"hcgnet-b:{_engine}"),
        )
# With random weights; in PyTorch the forward pass ends before NMS, in the engine behind the masks.
COMPARISONS["openvino-mask-rcnn"] = Comparison(
    "forward",
    *(1, (800, 1333), 6, 120),
    dict(resnet=f"{RESNET_FPN}:openvino", ours=f"{OURS}:openvino", pytorch=OURS),
)
# The others have networks that nobody uses.
DRAWN = ("forward-8", "forward-1", "train-16", "mask-rcnn-forward", "mask-rcnn-train")


def time_of(model: str, other: str) -> Callable[[Mapping[str, "Result"]], float]:
    """Compute the time of a model in units of another one's."""
    from mmhcgnet.analysis.benchmark.measuring import time_ratio

    return lambda results: time_ratio(results[model].times, results[other].times)


def speed_of(model: str, other: str) -> Callable[[Mapping[str, "Result"]], float]:
    """Compute the images a second of a model in units of another one's."""
    return time_of(other, model)


def growth(results: Mapping[str, "Result"]) -> float:
    """How many times as many bytes the second doubling adds as the first: 2 if linear."""
    first, second, third = (results[str(depth)].kept for depth in DEPTHS)
    return (third - second) / (second - first)


def targets() -> list[Target]:
    """Return all targets, in the order of the table."""
    megabytes, calls = "{:.1f} MB", "{:,.0f}"
    return [
        Target(
            "deployed forward, batch 8: images/s against ResNet-50",
            *("forward-8", speed_of("deployed", "resnet"), 2.0, True, 1.78),
        ),
        Target(
            "deployed forward, batch 1: images/s against ResNet-50",
            *("forward-1", speed_of("deployed", "resnet"), 1.5, True, 1.28),
        ),
        Target(
            "deployed forward, batch 1: images/s against the plain form",
            *("forward-1", speed_of("deployed", "plain"), 1.5, True, 1.43),
        ),
        Target(
            "deployed forward, batch 8: images/s against the plain form",
            *("forward-8", speed_of("deployed", "plain"), 1.5, True, 1.3),
        ),
        Target(
            "deployed forward: operator calls",
            *("forward-8", lambda results: results["deployed"].calls, 850),
            form=calls,
        ),
        Target(
            "training step, batch 16: time against the plain form",
            *("train-16", time_of("default", "plain"), 0.9),
        ),
        Target(
            "training step: kept for the backward pass, per image",
            *("train-16", lambda results: results["default"].kept / 1e6, 75),
            form=megabytes,
        ),
        Target(
            "training step: operator calls",
            *("train-16", lambda results: results["default"].calls, 3970),
            form=calls,
        ),
        Target(
            "training step with with_cp: kept for the backward pass, per image",
            *("train-16", lambda results: results["with_cp"].kept / 1e6, 36),
            form=megabytes,
        ),
        Target(
            "training step with with_cp, batch 16: time against the plain form",
            *("train-16", time_of("with_cp", "plain"), 1.1),
        ),
        Target(
            "HCGNet-A1's training step: speed against PyTorch's default memory format",
            *("train-cifar", speed_of("default", "nchw"), 1.5, True),
        ),
        # A tenth of the way to quadratic is left for what does not grow with the maps.
        Target(
            "kept when the depth doubles twice: 2 linear, 4 quadratic",
            *("growth", growth, 2.2),
            form="{:.2f}",
        ),
        Target(
            "Mask R-CNN, training step: time against ResNet-50",
            *("mask-rcnn-train", time_of("default", "resnet"), 1.0),
        ),
        Target(
            "Mask R-CNN, training step: kept against ResNet-50",
            *("mask-rcnn-train", lambda results: results["default"].kept / results["resnet"].kept),
            1.0,
        ),
        Target(
            "Mask R-CNN, deployed forward: images/s against ResNet-50",
            *("mask-rcnn-forward", speed_of("deployed", "resnet"), 1.15, True),
        ),
        Target(
            "Mask R-CNN, plain forward: images/s against ResNet-50",
            *("mask-rcnn-forward", speed_of("plain", "resnet")),
        ),
        Target(
            "small network compiled, deployed forward: time against eager",
            *("compile-forward", time_of("compiled", "eager")),
        ),
        Target(
            "small network compiled, training step: time against eager",
            *("compile-train", time_of("compiled", "eager")),
        ),
        *(
            Target(
                f"exported, {engine}, batch {batch}: images/s against ResNet-50",
                *(f"{engine}-{batch}", speed_of("ours", "resnet"), bound, True),
            )
            for engine, bounds in ENGINES.items()
            for batch, bound in zip((1, 8), bounds, strict=True)
        ),
        Target(
            "Mask R-CNN exported, OpenVINO: images/s against ResNet-50",
            *("openvino-mask-rcnn", speed_of("ours", "resnet"), 1.15, True),
        ),
        Target(
            "Mask R-CNN exported, OpenVINO: images/s against PyTorch",
            *("openvino-mask-rcnn", speed_of("ours", "pytorch"), 1.5, True),
        ),
    ]


def judge(target: Target, results: Mapping[str, Mapping[str, "Result"]]) -> dict[str, object]:
    """Compare what was measured with a target.

    Returns:
        ``what``, ``target``, ``value`` and ``measured`` (``None`` and a dash where the comparison
        was left out) and ``met``: yes, no, the floor, or a dash.
    """
    sign = "≥" if target.least else "≤"
    row = dict(what=target.what, target="–", value=None, measured="–", met="–")
    if target.bound is not None:
        row["target"] = f"{sign} {target.form.format(target.bound)}"
    if target.comparison in results:
        value = row["value"] = target.value(results[target.comparison])
        row["measured"] = target.form.format(value)
        if target.bound is not None:
            sides = [(value, bound) for bound in (target.bound, target.floor) if bound is not None]
            reached = [v >= bound if target.least else v <= bound for v, bound in sides]
            row["met"] = "yes" if reached[0] else "the floor" if reached[-1] else "no"
    return row


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--only", nargs="+", choices=list(COMPARISONS), help="comparisons to run (default: all)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, help="threads on a CPU (default: PyTorch's)")
    parser.add_argument(
        "--out",
        default="work_dirs/benchmark.json",
        metavar="FILE",
        help="JSON file to write; a PNG of the same name goes beside it (default: %(default)s)",
    )
    return parser.parse_args()


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    import torch

    from mmhcgnet.analysis import report
    from mmhcgnet.analysis.benchmark import measuring as benchmark
    from mmhcgnet.cli.report import report_usage_errors
    from mmhcgnet.engine.configs import ops_lack_the_gpu

    with report_usage_errors():
        benchmark.check_device(args.device)
        report.check_matplotlib()
        if args.threads:
            torch.set_num_threads(args.threads)
        results = {}
        for name in args.only or COMPARISONS:
            if name.startswith("mask-rcnn") and args.device == "cuda" and ops_lack_the_gpu():
                print(f"{name} is left out: MMCV's ops were compiled without CUDA.\n")
                continue
            engine = name.partition("-")[0]
            if engine in ENGINES and args.device != "cpu":
                print(f"{name} is left out: engines run on a CPU alone.\n")
                continue
            if engine in ENGINES and not (find_spec("onnx") and find_spec(engine)):
                print(f"{name} is left out: it needs onnx and {engine}.\n")
                continue
            comparison = COMPARISONS[name]
            measured = benchmark.measure(
                list(comparison.models.values()),
                comparison.task,
                comparison.batch_size,
                comparison.size,
                rounds=comparison.rounds,
                seconds=comparison.seconds,
                device=args.device,
                say=lambda line: print(line, flush=True),
            )
            table = report.table(benchmark.HEADER, list(map(benchmark.as_row, measured)))
            print(f"\n{name}\n\n{table}\n")
            results[name] = dict(zip(comparison.models, measured, strict=True))

        rows = [judge(target, results) for target in targets()]
        columns = ("what", "target", "measured", "met")
        print(report.table(columns, [[str(row[key]) for key in columns] for row in rows]))
        everything = {
            name: {role: result.as_dict() for role, result in comparison.items()}
            for name, comparison in results.items()
        }
        machine = benchmark.describe_machine(args.device)
        report.write_json(args.out, dict(machine=machine, targets=rows, results=everything))
        picture = f"{os.path.splitext(args.out)[0]}.png"
        drawn = [result for name in results if name in DRAWN for result in results[name].values()]
        if drawn:
            benchmark.figure(drawn).savefig(picture)
        print("\n".join(["", args.out, *([picture] if drawn else [])]))


if __name__ == "__main__":
    main()
