_base_ = "mmpretrain::_base_/datasets/cifar100_bs16.py"

# MMPretrain's base has another mean and other deviations.
data_preprocessor = dict(
    mean=[255 * 0.5071, 255 * 0.4867, 255 * 0.4408],
    std=[255 * 0.2675, 255 * 0.2565, 255 * 0.2761],
)

# The gates cannot train on a batch of one image, which a smaller set could leave over.
train_dataloader = dict(batch_size=128, drop_last=True)
val_dataloader = dict(batch_size=128)
test_dataloader = val_dataloader
