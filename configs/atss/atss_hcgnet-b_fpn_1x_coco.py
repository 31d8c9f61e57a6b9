_base_ = ["mmdet::atss/atss_r50_fpn_1x_coco.py", "../_base_/guards.py"]

default_hooks = _base_.guards
train_cfg = _base_.loops.epochs

model = dict(
    backbone=dict(
        _delete_=True,
        type="mmhcgnet.HCGNet",
        arch="B",
        out_indices=(0, 1, 2, 3),
        norm_eval=True,
        frozen_stages=1,
        norm_cfg=dict(type="BN", requires_grad=True),
        init_cfg=dict(
            type="Pretrained",
            checkpoint="checkpoints/hcgnet-b_3rdparty_in1k.pth",
            prefix="backbone.",
        ),
    ),
    neck=dict(in_channels=[160, 368, 952, 1244]),
)

# The rate is MMDetection's for 8 GPUs x 2 images: 0.01 / 16 = 0.000625 an image.
auto_scale_lr = dict(enable=False, base_batch_size=16)

# A last batch of one image would have no batch statistics where norms are trained.
train_dataloader = dict(batch_sampler=dict(drop_last=True))
