_base_ = "mmpretrain::_base_/datasets/cifar10_bs16.py"

# MMPretrain's base has other deviations.
data_preprocessor = dict(
    mean=[255 * 0.4914, 255 * 0.4822, 255 * 0.4465],
    std=[255 * 0.2470, 255 * 0.2435, 255 * 0.2616],
)

# The gates cannot train on a batch of one image, which a smaller set could leave over.
train_dataloader = dict(batch_size=128, drop_last=True)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
