"""Draw what the gates of an HCGNet do on images, and class activation maps of any classifier.

For each image, OUT_DIR/IMAGE/ gets gates.png, all modules in one sheet; MODULE.png for each of
--modules, with the spatial attention of the update gate's two branches and of the forget gate, and
the channel weights u3, u5 and f; and METHOD.png with --cam.
"""

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmengine.config import Config


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config", help="config of a classifier or a detector")
    parser.add_argument("checkpoint", nargs="?", help="its weights")
    parser.add_argument(
        "images", nargs="*", metavar="image", help="image files, and folders with images"
    )
    parser.add_argument("--list", action="store_true", help="list the config's modules and stop")
    parser.add_argument(
        "--modules",
        nargs="+",
        default=[],
        metavar="MODULE",
        help="draw these large, e.g. stages.3.7 transitions.0; stages.3 is the whole stage",
    )
    parser.add_argument("--out-dir", default="work_dirs/gates", help="default: work_dirs/gates")
    parser.add_argument(
        "--raw", action="store_true", help="write all maps and weights to gates.npz, too"
    )
    parser.add_argument(
        "--cam",
        metavar="METHOD",
        help="draw a class activation map, too, by gradcam, gradcam++, xgradcam, hirescam, "
        "layercam, eigencam or eigengradcam",
    )
    parser.add_argument(
        "--target", type=int, metavar="CLASS", help="the class of --cam (default: the predicted)"
    )
    parser.add_argument(
        "--layer", help="the layer of --cam, e.g. backbone.stages.2 (default: the backbone's map)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. test_dataloader.dataset.pipeline.1.scale=96",
    )
    return parser.parse_intermixed_args()  # images may stand behind options


def list_modules(cfg: "Config") -> None:
    """Print the modules of a config's HCGNet."""
    from mmhcgnet import cli
    from mmhcgnet.analysis.gates import maps as gate_maps
    from mmhcgnet.analysis.report import table
    from mmhcgnet.engine.models import build_model

    cli.check_sections(cfg, "model")
    with cli.explain_misspelt_types():
        network = gate_maps.find_network(build_model(cfg))
    if network is None:
        raise cli.UsageError(f"The config {cfg.filename} has no HCGNet, whose modules to list.")
    print(table(gate_maps.MODULES_HEADER, gate_maps.module_rows(network)))


def draw(cfg: "Config", args: argparse.Namespace) -> None:
    """Draw all figures of all images."""
    import os
    import sys
    import time

    import numpy as np

    from mmhcgnet.analysis.gates import cam
    from mmhcgnet.analysis.gates import images as pictures
    from mmhcgnet.analysis.gates import maps as gate_maps
    from mmhcgnet.analysis.report import check_matplotlib
    from mmhcgnet.engine.inference import class_names
    from mmhcgnet.engine.models import load_model
    from mmhcgnet.errors import UsageError

    check_matplotlib()
    if not args.checkpoint:
        raise UsageError("Give a checkpoint and images after the config, or --list.")
    if not args.cam and (args.layer is not None or args.target is not None):
        raise UsageError("--layer and --target belong to a class activation map: add --cam.")
    images = pictures.find_images(args.images)
    if args.cam:
        cam.check_method(args.cam)
    model = load_model(cfg, args.checkpoint, args.device)
    network = gate_maps.find_network(model)
    if network is None and (args.modules or args.raw or not args.cam):
        raise UsageError(
            f"The config {cfg.filename} has no HCGNet, whose gates to draw: "
            "--cam alone draws class activation maps of other classifiers."
        )
    chosen = gate_maps.choose_modules(network, args.modules) if args.modules else []
    if args.cam:
        cam.check_layer(model, args.layer)
        classes = dict(enumerate(class_names(cfg, args.checkpoint)))
    read = pictures.make_reader(cfg, model)

    start = time.monotonic()
    for done, (name, path) in enumerate(images.items()):
        if done:
            left = (time.monotonic() - start) / done * (len(images) - done)
            print(f"{done} of {len(images)} images, {left:.0f} s left", file=sys.stderr)
        sample = read(path)
        figures = {}
        if args.cam:
            heat, target, score = cam.activation_map(
                model, sample.inputs, args.cam, args.target, args.layer
            )
            name_of_class = classes.get(target, f"class {target}")
            title = f"{args.cam} of {name_of_class}, score {score:.2f}"
            figures[args.cam] = cam.cam_figure(sample, heat, title)
        if network is not None:
            gates = gate_maps.read_gates(network, sample.inputs)
            figures["gates"] = gate_maps.contact_sheet(sample, gates)
            for module in chosen:
                figures[module] = gate_maps.module_figure(module, sample, gates[module])
        folder = os.path.join(args.out_dir, name)
        os.makedirs(folder, exist_ok=True)
        for stem, figure in figures.items():
            target_path = os.path.join(folder, f"{stem}.png")
            figure.savefig(target_path)
            print(target_path)
        if args.raw:
            target_path = os.path.join(folder, "gates.npz")
            np.savez_compressed(target_path, **gate_maps.as_arrays(gates))
            print(target_path)


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    from mmhcgnet.cli.progress import leave_out_noise
    from mmhcgnet.cli.report import report_usage_errors
    from mmhcgnet.engine.configs import load_config

    with report_usage_errors():
        cfg = load_config(args.config, args.cfg_options)
        leave_out_noise(cfg)
        if args.list:
            list_modules(cfg)
        else:
            draw(cfg, args)


if __name__ == "__main__":
    main()
