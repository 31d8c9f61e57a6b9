"""What surrounds a run: options, checks, launching, resuming, errors in one sentence."""

from .checks import (
    check_checkpoint_path,
    check_ops,
    check_pretrained_files,
    check_sections,
    ops_lack_the_gpu,
)
from .data_checks import check_data
from .errors import MissingFileError, UsageError, explain_misspelt_types, report_usage_errors
from .launch import prepare_distributed
from .options import (
    decide_out_item,
    drop_validation,
    load_config,
    set_amp_training,
    set_auto_scale_lr,
    set_dataloader_defaults,
    set_test_time_augmentation,
    set_visualization,
    set_work_dir,
)
from .resume import drop_pretrained, set_resume

__all__ = [
    "MissingFileError",
    "UsageError",
    "check_checkpoint_path",
    "check_data",
    "check_ops",
    "check_pretrained_files",
    "check_sections",
    "decide_out_item",
    "drop_pretrained",
    "drop_validation",
    "explain_misspelt_types",
    "load_config",
    "ops_lack_the_gpu",
    "prepare_distributed",
    "report_usage_errors",
    "set_amp_training",
    "set_auto_scale_lr",
    "set_dataloader_defaults",
    "set_resume",
    "set_test_time_augmentation",
    "set_visualization",
    "set_work_dir",
]
