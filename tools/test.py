"""Evaluate a checkpoint of a detector or a classifier."""

import argparse
import os
import sys


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument("checkpoint", help="checkpoint file or URL")
    parser.add_argument(
        "--work-dir", help="folder for logs and metrics (default: ./work_dirs/<config name>)"
    )
    parser.add_argument(
        "--out", metavar="FILE", help="write the predictions (.pkl) or the metrics (.json)"
    )
    parser.add_argument(
        "--out-item",
        choices=["metrics", "pred"],
        help="what --out writes, where its suffix should not decide",
    )
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument(
        "--show-dir",
        help="write images with the predictions here (detection: in <work dir>/<time>/)",
    )
    parser.add_argument(
        "--interval",
        type=int,
        default=1,
        help="draw every so many images (detection draws all)",
    )
    parser.add_argument(
        "--wait-time", type=float, default=2, help="seconds that --show shows an image"
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: the config's tta_model and tta_pipeline, else flips",
    )
    parser.add_argument(
        "--deploy",
        action="store_true",
        help="test the deployed form of the model (its parts with a method switch_to_deploy, such "
        "as HCGNet), which is faster and cannot be undone; the checkpoint stays as it is, and of "
        "a training with EMAHook the averaged weights are tested",
    )
    parser.add_argument("--amp", action="store_true", help="test in mixed precision")
    parser.add_argument(
        "--no-pin-memory", action="store_true", help="do not pin memory in the dataloaders"
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. test_dataloader.num_workers=0 key=[a,b] "
        'key="[(a,b),(c,d)]"; list items by index, e.g. test_evaluator.0.topk=1',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes of a distributed run; see dist_test.sh",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def test(args: argparse.Namespace) -> None:
    """Check all that can be wrong with the arguments, then evaluate."""
    import mmengine
    from mmengine.dist import is_main_process
    from mmengine.registry import RUNNERS

    from mmhcgnet import cli

    cli.use_safe_loader()
    out_item = cli.decide_out_item(args.out, args.out_item)
    cfg = cli.load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cli.leave_out_noise(cfg)
    cli.check_sections(cfg, "model", "test_dataloader", "test_cfg", "test_evaluator")
    cli.check_ops(cfg)
    checkpoint = cli.check_checkpoint(cfg, args.checkpoint)
    cfg.load_from = args.checkpoint
    cfg.resume = False
    cli.set_work_dir(cfg, args.work_dir)
    if args.out:
        cli.check_output(args.out, cfg)
    cli.set_dataloader_defaults(cfg, not args.no_pin_memory)
    cli.set_amp_testing(cfg, args.amp)
    if args.show or args.show_dir:
        cli.set_visualization(cfg, args.show, args.show_dir, args.interval, args.wait_time)
    if args.deploy:
        cli.set_deploy(cfg)
    if args.tta:
        cli.set_test_time_augmentation(cfg)
    cli.set_guards(cfg)
    cli.check_data(
        cfg,
        "test",
        files_only=cli.launched_rank(cfg.launcher) > 0,
        # What it was trained on counts, and not the config; the classes are mapped by name.
        as_in_training=checkpoint is None or not checkpoint.classes,
    )
    cli.prepare_distributed(cfg, training=False)
    cli.claim_work_dir(cfg, training=False)
    cli.keep_config_copy(cfg)

    with cli.explain_misspelt_types():
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else cli.QuietRunner.from_cfg(cfg)
        if out_item == "pred":
            cli.dump_predictions(cfg, runner.test_evaluator, args.out)
        with cli.progress_bar(runner):
            metrics = runner.test()
    cli.check_metrics(metrics, runner.test_evaluator.metrics)
    if out_item == "metrics" and is_main_process():
        mmengine.dump(metrics, args.out)
    cli.report_test(runner, args.config, args.checkpoint, args.out, args.show_dir)


def main() -> None:
    args = parse_args()
    # Older launchers pass the rank as an argument only.
    os.environ.setdefault("LOCAL_RANK", str(args.local_rank))
    # After parsing, as the packages behind it take seconds to import and --help needs none.
    try:
        from mmhcgnet.cli.launch import distributed_run
        from mmhcgnet.cli.report import report_usage_errors
    except KeyboardInterrupt:
        sys.exit(130)

    with distributed_run(), report_usage_errors(args.launcher):
        test(args)


if __name__ == "__main__":
    main()
