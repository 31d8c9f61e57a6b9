"""What surrounds a run: options, checks, launching, checkpoints, errors in one sentence."""

from .building import build_model, load_model
from .checkpoints import encode_checkpoint, read_checkpoint, use_safe_loader
from .checks import (
    check_checkpoint,
    check_frozen_backbone,
    check_not_official,
    check_ops,
    check_pretrained_files,
    check_sections,
    check_trainable,
    ops_lack_the_gpu,
)
from .conversion import add_output_arguments, convert_file, make_parser
from .data_checks import check_data
from .deployment import deploy_file, switch_to_deploy
from .errors import MissingFileError, UsageError, explain_misspelt_types, report_usage_errors
from .files import write_atomically
from .guards import set_guards
from .launch import distributed_run, prepare_distributed
from .options import (
    check_amp_training,
    decide_out_item,
    drop_validation,
    load_config,
    set_amp_training,
    set_auto_scale_lr,
    set_dataloader_defaults,
    set_deploy,
    set_test_time_augmentation,
    set_visualization,
    set_work_dir,
)
from .resume import drop_pretrained, set_resume

__all__ = [
    "check_amp_training",
    "MissingFileError",
    "UsageError",
    "add_output_arguments",
    "build_model",
    "check_checkpoint",
    "check_data",
    "check_frozen_backbone",
    "check_not_official",
    "check_ops",
    "check_pretrained_files",
    "check_sections",
    "check_trainable",
    "convert_file",
    "decide_out_item",
    "deploy_file",
    "distributed_run",
    "drop_pretrained",
    "drop_validation",
    "encode_checkpoint",
    "explain_misspelt_types",
    "load_config",
    "load_model",
    "make_parser",
    "ops_lack_the_gpu",
    "prepare_distributed",
    "read_checkpoint",
    "report_usage_errors",
    "set_amp_training",
    "set_auto_scale_lr",
    "set_dataloader_defaults",
    "set_deploy",
    "set_guards",
    "set_resume",
    "set_test_time_augmentation",
    "set_visualization",
    "set_work_dir",
    "switch_to_deploy",
    "use_safe_loader",
    "write_atomically",
]
