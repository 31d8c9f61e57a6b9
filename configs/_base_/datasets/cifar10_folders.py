"""CIFAR-10 as image files: data/cifar10_folders/{train,test}/CLASS/NAME.png.

Validation is on a tenth of the training images; the test images are for the end:
python tools/dataset_converters/cifar_to_folders.py data/cifar10 data/cifar10_folders
python tools/dataset_converters/split_folders.py data/cifar10_folders
"""

data_preprocessor = dict(
    num_classes=10,
    mean=[255 * 0.4914, 255 * 0.4822, 255 * 0.4465],
    std=[255 * 0.2470, 255 * 0.2435, 255 * 0.2616],
    to_rgb=True,  # files are read as BGR
)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="RandomCrop", crop_size=32, padding=4),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="PackInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=32),  # for other images than these
    dict(type="PackInputs"),
]

data_root = "data/cifar10_folders"
classes = "airplane automobile bird cat deer dog frog horse ship truck".split()
metainfo = dict(classes=classes)  # train.txt and val.txt have their numbers only
train_dataloader = dict(
    batch_size=128,
    num_workers=0,  # not next to the computing cores
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type="CustomDataset",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="train.txt",
        data_prefix="train",
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        data_root=data_root,
        metainfo=metainfo,
        ann_file="val.txt",
        data_prefix="train",
        pipeline=test_pipeline,
    ),
)
test_dataloader = dict(
    batch_size=250,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type="CustomDataset",
        data_root=data_root,
        metainfo=metainfo,
        data_prefix="test",
        pipeline=test_pipeline,
    ),
)
val_evaluator = dict(type="Accuracy", topk=(1,))
test_evaluator = val_evaluator
