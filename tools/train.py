"""Train a detector or a classifier from a config."""

import argparse
import os
import sys


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config", help="config file")
    parser.add_argument(
        "--work-dir", help="folder for logs and checkpoints (default: ./work_dirs/<config name>)"
    )
    parser.add_argument(
        "--resume",
        nargs="?",
        const="auto",
        metavar="CKPT",
        help="resume from this checkpoint, or from the latest one of the work directory",
    )
    parser.add_argument(
        "--replace",
        nargs="+",
        metavar="PART",
        help="parts of the model that start from scratch when load_from gives weights to the "
        "rest, by the beginnings of their tensors' names, such as roi_head.bbox_head.fc_cls",
    )
    parser.add_argument(
        "--amp",
        action="store_true",
        help="train in mixed precision (fp16 on a GPU, bfloat16 on a CPU)",
    )
    parser.add_argument(
        "--no-validate", action="store_true", help="do not evaluate during training"
    )
    parser.add_argument(
        "--auto-scale-lr",
        action="store_true",
        help="scale the learning rate with the batch size over all processes",
    )
    parser.add_argument(
        "--no-pin-memory", action="store_true", help="do not pin memory in the dataloaders"
    )
    parser.add_argument(
        "--no-persistent-workers",
        action="store_true",
        help="restart the dataloaders' workers for every epoch",
    )
    parser.add_argument(
        "--cfg-options",
        nargs="+",
        metavar="KEY=VALUE",
        help="override settings of the config, e.g. train_cfg.max_epochs=6 key=[a,b] "
        'key="[(a,b),(c,d)]"; list items by index, e.g. param_scheduler.0.end=100',
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm", "mpi"],
        default="none",
        help="what started the processes of a distributed run; see dist_train.sh",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, default=0, help=argparse.SUPPRESS)
    return parser.parse_args()


def train(args: argparse.Namespace) -> None:
    """Check all that can be wrong with the arguments, then train."""
    from mmengine.registry import RUNNERS

    from mmhcgnet import cli

    cli.use_safe_loader()
    cfg = cli.load_config(args.config, args.cfg_options)
    cfg.launcher = args.launcher
    cli.leave_out_noise(cfg)
    cli.check_sections(cfg, "model", "train_dataloader", "optim_wrapper")
    cli.check_trainable(cfg)
    cli.check_ops(cfg)
    cli.set_work_dir(cfg, args.work_dir)
    cli.set_dataloader_defaults(cfg, not args.no_pin_memory, not args.no_persistent_workers)
    if args.no_validate:
        cli.drop_validation(cfg)
    if args.amp:
        cli.set_amp_training(cfg)
    cli.check_amp_training(cfg)
    if args.auto_scale_lr:
        cli.set_auto_scale_lr(cfg)
    resuming = cli.set_resume(cfg, args.resume)
    if args.replace and (resuming or not cfg.get("load_from")):
        raise cli.UsageError(
            "--replace names parts that do not take the weights of load_from, but this run "
            + ("resumes: leave it out." if resuming else "has none: pass load_from=CHECKPOINT.")
        )
    if cfg.get("load_from"):
        cli.check_checkpoint(cfg, cfg.load_from)
    if not resuming:
        cli.check_pretrained_files(cfg.model)
        cli.check_frozen_backbone(cfg)
    cli.set_guards(cfg, args.replace)
    cli.check_data(cfg, "train", "val", files_only=cli.launched_rank(cfg.launcher) > 0)
    cli.prepare_distributed(cfg, training=True)
    lock = cli.claim_work_dir(cfg, training=True)  # noqa: F841, it holds as long as this function

    with cli.explain_misspelt_types():
        runner = RUNNERS.build(cfg) if "runner_type" in cfg else cli.QuietRunner.from_cfg(cfg)
        if resuming:
            cli.drop_pretrained(runner.model)
        elif args.resume:
            start = f"the weights in {cfg.load_from}" if cfg.get("load_from") else "scratch"
            runner.logger.warning(
                f"There is no checkpoint to resume from in {cfg.work_dir}: training starts "
                f"from {start}."
            )
        with cli.progress_bar(runner):
            runner.train()
    cli.report_training(runner, args.config)


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
        train(args)


if __name__ == "__main__":
    main()
