"""Count the parameters and multiply-adds of a config's model, or print the paper's tables.

Multiply-adds of convolutions and fully connected layers are what papers call FLOPs. Products of two
maps (attention) stand apart; biases, norms, activations, pooling and resizing are not counted.
"""

import argparse
import dataclasses


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "config",
        nargs="?",
        help="config file, or one of an installed package: "
        "mmpretrain::resnet/resnet50_8xb32_in1k.py",
    )
    parser.add_argument(
        "--shape",
        nargs="+",
        type=int,
        metavar=("H", "W"),
        help="height and width of the image, or a square's side (default: as the config tests)",
    )
    parser.add_argument(
        "--check", action="store_true", help="count with MMEngine's analysis, too, which computes"
    )
    parser.add_argument(
        "--paper",
        action="store_true",
        help="print tables 2, 3 and 4 of the paper with our counts of all networks of which "
        "MMPretrain or MMDetection have a config (half a minute)",
    )
    parser.add_argument("--json", metavar="FILE", help="write the exact numbers, too")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. model.backbone.arch=C",
    )
    return parser.parse_args()


def count_config(args: argparse.Namespace) -> dict:
    """Print what a config's model costs; return the exact numbers."""
    from mmhcgnet import cli
    from mmhcgnet.analysis.complexity import counting as complexity
    from mmhcgnet.analysis.report import number, table
    from mmhcgnet.engine.models import build_model

    cfg = cli.load_config(args.config, args.cfg_options)
    cli.check_sections(cfg, "model")
    shape = complexity.input_shape(cfg, args.shape and complexity.read_size(args.shape))
    with cli.explain_misspelt_types():
        model = build_model(cfg)
    counts = complexity.count(model, shape)

    print(f"{args.config}, one image of {' x '.join(map(str, shape))}\n")
    parts = [name for name, part in counts.items() if name and any(dataclasses.astuple(part))]
    rows = [
        [
            name or "total",
            number(counts[name].params, 3, 1e6),
            number(counts[name].multiply_adds, 4, 1e9),
            number(counts[name].products, 4, 1e9),
        ]
        for name in [*parts, ""]
    ]
    print(table(["part", "parameters (M)", "multiply-adds (G)", "products (G)"], rows))
    if proposals := complexity.number_of_proposals(model):
        masks = ", its mask head 100" if getattr(model.roi_head, "with_mask", False) else ""
        print(f"\nThe second stage gets {proposals} proposals{masks}.")
    if layers := complexity.uncounted_layers(model):
        print(f"\nNot counted, as only MMCV knows what they do: {', '.join(layers)}.")
    result = dict(
        config=args.config,
        shape=shape,
        **dataclasses.asdict(counts[""]),
        parts={name: dataclasses.asdict(counts[name]) for name in parts},
    )
    if args.check:
        counted = counts[""].multiply_adds + counts[""].products
        traced = result["traced"] = complexity.count_by_tracing(model, shape)
        print(
            f"\nMultiply-adds and products: {counted:,} by PyTorch's FlopCounterMode, {traced:,} "
            f"by MMEngine's FlopAnalyzer, {abs(traced - counted) / counted:.2%} apart."
        )
    return result


def count_paper() -> dict:
    """Print the paper's tables 2, 3 and 4 with our counts; return both."""
    from mmhcgnet.analysis.complexity import comparison as compare
    from mmhcgnet.analysis.report import number, table

    def counted(row: compare.Row, name: str, digits: int, unit: float) -> str:
        computed = row.computed
        return number(computed and getattr(computed, name), digits, unit)

    print("Columns marked * are the paper's, the others are computed.\n")
    cifar = compare.compare_cifar()
    header = ["network", "params* (M)", "params (M), 10 / 100 classes"]
    rows = []
    for row in cifar:
        entry, computed = row.paper, row.computed
        rows.append(
            [
                entry.name,
                number(entry.params),
                " / ".join(number(computed[n].params, 3, 1e6) for n in (10, 100))
                if computed
                else "–",
                number(entry.flops),
                number(computed and computed[10].multiply_adds, 3, 1e9),
                number(entry.cifar10, 2),
                number(entry.cifar100, 2),
            ]
        )
    print("Table 2: CIFAR, 32 x 32 pixels, test errors in per cent\n")
    costs = ["FLOPs* (G)", "multiply-adds (G)"]
    print(table([*header, *costs, "CIFAR-10*", "CIFAR-100*"], rows))

    imagenet = compare.compare_imagenet()
    header = ["network", "params* (M)", "params (M)", *costs]
    rows = [
        [
            (entry := row.paper).name,
            number(entry.params),
            counted(row, "params", 2, 1e6),
            number(entry.flops),
            counted(row, "multiply_adds", 2, 1e9),
            number(entry.top1),
            number(entry.top5),
        ]
        for row in imagenet
    ]
    print("\nTable 3: ImageNet, 224 x 224 pixels, errors in per cent\n")
    print(table([*header, "top-1*", "top-5*"], rows))

    coco = compare.compare_coco()
    precisions = ("box_ap", "box_ap50", "box_ap75", "mask_ap", "mask_ap50", "mask_ap75")
    rows = [
        [
            (entry := row.paper).name,
            number(entry.params),
            counted(row, "params", 2, 1e6),
            number(entry.flops),
            counted(row, "multiply_adds", 1, 1e9),
            *(number(getattr(entry, name)) for name in precisions),
        ]
        for row in coco
    ]
    print("\nTable 4: Mask R-CNN on COCO, 1280 x 800 pixels, 1000 proposals, 100 masks\n")
    columns = ["box AP*", "AP50*", "AP75*", "mask AP*", "AP50*", "AP75*"]
    print(table([*header, *columns], rows))
    theirs, ours = compare.flops_ratios(coco)
    print(
        f"\nHCGNet-B-FPN over ResNet-50-FPN: {theirs:.3f} of the FLOPs*, {ours:.3f} of the "
        f"multiply-adds, {abs(ours / theirs - 1):.1%} apart."
    )
    return {"table 2": cifar, "table 3": imagenet, "table 4": coco}


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    from mmhcgnet.analysis.report import write_json
    from mmhcgnet.cli.report import report_usage_errors
    from mmhcgnet.errors import UsageError

    with report_usage_errors():
        if bool(args.config) == args.paper:
            raise UsageError("Give either a config or --paper.")
        result = count_paper() if args.paper else count_config(args)
        if args.json:
            write_json(args.json, result)


if __name__ == "__main__":
    main()
