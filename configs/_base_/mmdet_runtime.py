"""MMDetection's runtime with guards."""

_base_ = ["mmdet::_base_/default_runtime.py", "./guards.py"]

default_hooks = _base_.guards
train_cfg = _base_.loops.epochs
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
