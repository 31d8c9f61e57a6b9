"""What surrounds a run: options, checks, launching, checkpoints, errors in one sentence."""

from .checkpoints import (
    encode_checkpoint,
    read_checkpoint,
    register_safetensors,
    write_atomically,
)
from .checks import (
    check_checkpoint_path,
    check_frozen_backbone,
    check_not_official,
    check_ops,
    check_pretrained_files,
    check_sections,
    ops_lack_the_gpu,
)
from .conversion import convert_file, make_parser
from .data_checks import check_data
from .errors import MissingFileError, UsageError, explain_misspelt_types, report_usage_errors
from .launch import prepare_distributed
from .options import (
    check_amp_training,
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
    "check_amp_training",
    "MissingFileError",
    "UsageError",
    "check_checkpoint_path",
    "check_data",
    "check_frozen_backbone",
    "check_not_official",
    "check_ops",
    "check_pretrained_files",
    "check_sections",
    "convert_file",
    "decide_out_item",
    "drop_pretrained",
    "drop_validation",
    "encode_checkpoint",
    "explain_misspelt_types",
    "load_config",
    "make_parser",
    "ops_lack_the_gpu",
    "prepare_distributed",
    "read_checkpoint",
    "register_safetensors",
    "report_usage_errors",
    "set_amp_training",
    "set_auto_scale_lr",
    "set_dataloader_defaults",
    "set_resume",
    "set_test_time_augmentation",
    "set_visualization",
    "set_work_dir",
    "write_atomically",
]
