"""HCGNet-B by the paper's ImageNet recipe.

The base with 'pil_resize' resizes by Pillow, as torchvision does: bilinear with antialiasing, which
OpenCV lacks. OpenCV still reads the files: both decode JPEG by libjpeg-turbo and gave the same
bytes (59 pictures, OpenCV 4.12 and Pillow 13).
"""

_base_ = [
    "mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py",
    "./mmpretrain_runtime.py",
]

model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmhcgnet.HCGNet", arch="B"),
    neck=[dict(type="GlobalAveragePooling"), dict(type="mmhcgnet.DropoutNeck", p=0.1)],
    head=dict(
        type="LinearClsHead",
        num_classes=1000,
        in_channels=1244,
        # The right class has 1 - 0.1 + 0.1 / 1000, every other one 0.1 / 1000.
        loss=dict(type="LabelSmoothLoss", label_smooth_val=0.1, mode="original"),
    ),
    train_cfg=dict(augments=dict(type="Mixup", alpha=0.4)),
)

# As torchvision's loader, which does not turn a picture the way its EXIF data say.
load = dict(type="LoadImageFromFile", color_type="color_ignore_orientation")
train_pipeline = [load, *_base_.train_pipeline[1:]]
test_pipeline = [load, *_base_.test_pipeline[1:]]
# The gates cannot train on a batch of one image, which a smaller set could leave over.
train_dataloader = dict(batch_size=128, drop_last=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

optim_wrapper = dict(
    type="OptimWrapper",
    # Nesterov is the released code's; the paper says momentum. The decay holds for norms and
    # biases, too.
    optimizer=dict(type="SGD", lr=0.1, momentum=0.9, nesterov=True, weight_decay=4e-5),
)
# 2 GPUs x 128 images
auto_scale_lr = dict(enable=False, base_batch_size=256)
default_hooks = dict(checkpoint=dict(max_keep_ckpts=3, save_best="auto"))
