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
from .launch import launched_rank, prepare_distributed
from .options import (
    check_amp_training,
    check_metrics,
    check_output,
    check_overwriting,
    claim_work_dir,
    decide_out_item,
    drop_validation,
    dump_predictions,
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
