"""HCGNet-A1's own CIFAR-10 config, cut down to 3 epochs: one cosine cycle, no mixup.

The data are JPEG files, listed by split.py.
"""

_base_ = "../../configs/hcgnet/hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar10.py"

model = dict(train_cfg=dict(_delete_=True))

data_preprocessor = dict(to_rgb=True)  # OpenCV's order, where CIFAR-10's own files hold RGB
folder = dict(
    _delete_=True,
    type="CustomDataset",
    data_root="data/cifar10_folder",
    data_prefix="train",
)
train_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **folder,
        ann_file="rest.txt",
        pipeline=[
            dict(type="LoadImageFromFile"),
            dict(type="RandomCrop", crop_size=32, padding=4),
            dict(type="RandomFlip", prob=0.5, direction="horizontal"),
            dict(type="PackInputs"),
        ],
    ),
)
val_dataloader = dict(
    num_workers=0,
    persistent_workers=False,
    dataset=dict(
        **folder,
        ann_file="held_out.txt",
        pipeline=[dict(type="LoadImageFromFile"), dict(type="PackInputs")],
    ),
)
test_dataloader = val_dataloader

iterations_an_epoch = 45000 // 128
param_scheduler = [dict(type="CosineAnnealingLR", T_max=3 * iterations_an_epoch, by_epoch=False)]
train_cfg = dict(
    _delete_=True,
    type="IterBasedTrainLoop",
    max_iters=3 * iterations_an_epoch,
    val_interval=iterations_an_epoch // 3,
)
default_hooks = dict(
    logger=dict(interval=39),
    checkpoint=dict(by_epoch=False, interval=iterations_an_epoch, max_keep_ckpts=1),
)
log_processor = dict(by_epoch=False)
custom_hooks = [dict(type="mmhcgnet.ChannelsLastHook")]
randomness = dict(seed=0)
