"""What only the scripts in ``tools/`` need: flags, checks before a run, launching, reports."""

from mmhcgnet.checkpoints import use_safe_loader, write_atomically
from mmhcgnet.datasets.checks.of_config import check_data
from mmhcgnet.engine.adapt import adapt_config, write_child
from mmhcgnet.engine.configs import (
    base_of,
    check_sections,
    load_config,
    parse_options,
    set_dataloader_defaults,
    shipped_config,
)
from mmhcgnet.engine.models import explain_misspelt_types
from mmhcgnet.engine.runner import QuietRunner
from mmhcgnet.errors import UsageError

from .converters import add_output_arguments, convert_file, make_parser
from .default_hooks import set_guards
from .deploy import deploy_file
from .launch import distributed_run, launched_rank, prepare_distributed
from .options import (
    check_amp_testing,
    check_amp_training,
    check_metrics,
    check_output,
    claim_work_dir,
    decide_out_item,
    drop_validation,
    keep_config_copy,
    set_amp_testing,
    set_amp_training,
    set_auto_scale_lr,
    set_deploy,
    set_test_time_augmentation,
    set_visualization,
    set_work_dir,
)
from .preflight import (
    check_checkpoint,
    check_frozen_backbone,
    check_ops,
    check_pretrained_files,
    check_trainable,
)
from .progress import leave_out_noise, progress_bar, report_test, report_training
from .publish import publish_file
from .report import report_usage_errors
from .resume import drop_pretrained, set_resume

__all__ = [
    "QuietRunner",
    "UsageError",
    "adapt_config",
    "add_output_arguments",
    "base_of",
    "check_amp_testing",
    "check_amp_training",
    "check_checkpoint",
    "check_data",
    "check_frozen_backbone",
    "check_metrics",
    "check_ops",
    "check_output",
    "check_pretrained_files",
    "check_sections",
    "check_trainable",
    "claim_work_dir",
    "convert_file",
    "decide_out_item",
    "deploy_file",
    "drop_pretrained",
    "drop_validation",
    "distributed_run",
    "explain_misspelt_types",
    "keep_config_copy",
    "leave_out_noise",
    "launched_rank",
    "load_config",
    "make_parser",
    "parse_options",
    "prepare_distributed",
    "progress_bar",
    "publish_file",
    "report_test",
    "report_training",
    "report_usage_errors",
    "set_amp_testing",
    "set_amp_training",
    "set_auto_scale_lr",
    "set_dataloader_defaults",
    "set_deploy",
    "set_guards",
    "set_resume",
    "set_test_time_augmentation",
    "set_visualization",
    "set_work_dir",
    "shipped_config",
    "use_safe_loader",
    "write_atomically",
    "write_child",
]
