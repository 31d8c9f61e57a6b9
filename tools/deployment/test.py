"""Evaluate an exported model with the data and the metric of its config."""

import argparse


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file that the model was exported with")
    parser.add_argument("model", help="exported file, .onnx or .xml")
    parser.add_argument(
        "--engine",
        choices=["onnxruntime", "openvino"],
        help="default: the one that is installed and reads the file",
    )
    parser.add_argument(
        "--work-dir", help="folder for logs and metrics (default: ./work_dirs/<config name>)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write the predictions (.pkl) or the metrics (.json)"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. test_dataloader.num_workers=0",
    )
    return parser.parse_args()


def test(args: argparse.Namespace) -> None:
    """Check all that can be wrong with the arguments, then evaluate."""
    import mmengine

    from mmhcgnet import cli
    from mmhcgnet.cli.export import set_exported_model

    out_item = cli.decide_out_item(args.out, None)
    cfg = cli.load_config(args.config, args.cfg_options)
    cli.leave_out_noise(cfg)
    cli.check_sections(cfg, "model", "test_dataloader", "test_cfg", "test_evaluator")
    classes = set_exported_model(cfg, args.model, args.engine)
    cli.set_work_dir(cfg, args.work_dir)
    if args.out:
        cli.check_output(args.out, cfg)
    cli.set_dataloader_defaults(cfg, pin_memory=False)
    cli.set_guards(cfg)
    # What it was trained on counts, and not the config; the classes are mapped by name.
    cli.check_data(cfg, "test", as_in_training=not classes)
    cli.claim_work_dir(cfg, training=False)
    cli.keep_config_copy(cfg)
    with cli.explain_misspelt_types():
        runner = cli.QuietRunner.from_cfg(cfg)
        if out_item == "pred":
            cli.dump_predictions(cfg, runner.test_evaluator, args.out)
        with cli.progress_bar(runner):
            metrics = runner.test()
    cli.check_metrics(metrics, runner.test_evaluator.metrics)
    if out_item == "metrics":
        mmengine.dump(metrics, args.out)


def main() -> None:
    args = parse_args()
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    from mmhcgnet.cli.report import report_usage_errors

    with report_usage_errors():
        test(args)


if __name__ == "__main__":
    main()
