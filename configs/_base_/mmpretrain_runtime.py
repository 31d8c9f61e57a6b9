"""MMPretrain's runtime with guards."""

_base_ = ["mmpretrain::_base_/default_runtime.py", "./guards.py"]

default_hooks = _base_.guards
