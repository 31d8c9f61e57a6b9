"""ImageNet as torchvision reads and resizes it.

The base with 'pil_resize' resizes by Pillow, as torchvision does: bilinear with antialiasing, which
OpenCV lacks. OpenCV still reads the files: both decode JPEG by libjpeg-turbo and gave the same
bytes (59 images, OpenCV 4.12 and Pillow 13).
"""

_base_ = "mmpretrain::_base_/datasets/imagenet_bs64_pil_resize.py"

# As torchvision's loader, which does not turn an image the way its EXIF data say.
load = dict(type="LoadImageFromFile", color_type="color_ignore_orientation")
train_pipeline = [load, *_base_.train_pipeline[1:]]
test_pipeline = [load, *_base_.test_pipeline[1:]]
# The gates cannot train on a batch of one image, which a smaller set could leave over.
train_dataloader = dict(batch_size=128, drop_last=True, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(batch_size=128, dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
