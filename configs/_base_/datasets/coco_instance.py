_base_ = "mmdet::_base_/datasets/coco_instance.py"

# A last batch of one image would have no batch statistics where norms are trained.
train_dataloader = dict(batch_sampler=dict(drop_last=True))
