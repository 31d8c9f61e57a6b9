"""MMDetection's runtime with guards; it keeps the best checkpoint and the three latest."""

_base_ = ["mmdet::_base_/default_runtime.py", "./guards.py"]

default_hooks = dict(
    _base_.guards,
    checkpoint=dict(_base_.guards["checkpoint"], max_keep_ckpts=3, save_best="auto"),
)
train_cfg = _base_.loops.epochs
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
