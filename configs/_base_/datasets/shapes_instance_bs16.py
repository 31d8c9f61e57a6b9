_base_ = "./shapes_instance.py"

# No loaders next to the two computing cores: a batch takes some 50 ms to load.
train_dataloader = dict(batch_size=16, num_workers=0, persistent_workers=False)
val_dataloader = dict(num_workers=0, persistent_workers=False)
test_dataloader = val_dataloader
