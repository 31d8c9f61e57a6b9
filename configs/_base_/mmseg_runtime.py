"""MMSegmentation's runtime with guards; it keeps the best checkpoint and the three latest.

Written out: MMEngine looks for ``mmseg::`` under the upstream package's name alone.
"""

_base_ = "./guards.py"

default_scope = "mmseg"
default_hooks = dict(
    _base_.guards,
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(
        _base_.guards["checkpoint"],
        by_epoch=False,
        interval=16000,
        max_keep_ckpts=3,
        save_best="mIoU",
    ),
    sampler_seed=dict(type="DistSamplerSeedHook"),
    visualization=dict(type="SegVisualizationHook"),
)
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0),
    dist_cfg=dict(backend="nccl"),
)
visualizer = dict(
    type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer"
)
log_processor = dict(by_epoch=False)
log_level = "INFO"
load_from = None
resume = False
tta_model = dict(type="SegTTAModel")

train_cfg = _base_.loops.iterations
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
