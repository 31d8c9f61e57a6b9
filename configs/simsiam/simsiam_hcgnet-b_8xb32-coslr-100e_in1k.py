"""Weights for a backbone from ImageNet without its labels, or from any images."""

_base_ = ["mmpretrain::simsiam/simsiam_resnet50_8xb32-coslr-100e_in1k.py", "../_base_/guards.py"]

default_hooks = _base_.guards
train_cfg = _base_.loops.epochs

model = dict(
    backbone=dict(
        _delete_=True,
        type="mmhcgnet.HCGNet",
        arch="B",
        out_indices=(3,),
        norm_cfg=dict(type="SyncBN"),
    ),
    neck=dict(in_channels=1244),
)
# The rate is MMPretrain's for 8 GPUs x 32 images: 0.05 / 256 = 0.000195 an image. The predictor's
# is constant: where the batch is another, SimSiamHook's lr has to follow that of the optimiser.
auto_scale_lr = dict(enable=False, base_batch_size=256)

# MMEngine writes the scope of a base into the dict, and hands all of it to the function.
train_dataloader = dict(collate_fn=dict(_delete_=True, type="default_collate"))
