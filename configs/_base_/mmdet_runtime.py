"""MMDetection's runtime with guards."""

_base_ = ["mmdet::_base_/default_runtime.py", "./guards.py"]

default_hooks = _base_.guards
