"""HCGNet-A1 for CIFAR-10, trained with mixup as in the paper."""

model = dict(
    type="ImageClassifier",
    backbone=dict(type="mmhcgnet.HCGNet", arch="A1"),
    neck=dict(type="GlobalAveragePooling"),
    head=dict(type="LinearClsHead", num_classes=10, in_channels=414),
    train_cfg=dict(augments=dict(type="Mixup", alpha=1.0)),
)
