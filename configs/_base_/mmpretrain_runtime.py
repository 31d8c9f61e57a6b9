"""MMPretrain's runtime with guards."""

_base_ = ["mmpretrain::_base_/default_runtime.py", "./guards.py"]

default_hooks = _base_.guards
train_cfg = _base_.loops.epochs
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")

# MMEngine writes the scope of a base into the dict, which MMPretrain's browse_dataset.py hands to
# the visualizer's constructor.
visualizer = dict(
    _delete_=True, type="UniversalVisualizer", vis_backends=[dict(type="LocalVisBackend")]
)
