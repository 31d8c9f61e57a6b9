"""One cosine of 100 epochs instead of SGDR's 630, in mixed precision and channels last.

Ours, not the paper's: expect more error than the paper's.
"""

_base_ = "./hcgnet-b_2xb128-mixup-lbs-sgdr-630e_in1k.py"

param_scheduler = [dict(type="CosineAnnealingLR", by_epoch=True, T_max=100, eta_min=0)]
train_cfg = dict(max_epochs=100, val_interval=1)
optim_wrapper = dict(type="AmpOptimWrapper")  # with a dynamic loss scale
custom_hooks = [dict(type="mmhcgnet.ChannelsLastHook")]
