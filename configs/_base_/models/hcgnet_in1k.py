"""HCGNet-B for ImageNet, trained with dropout, label smoothing and mixup as in the paper."""

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
