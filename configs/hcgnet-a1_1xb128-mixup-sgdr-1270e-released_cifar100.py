"""With the DropBlock of the released code, which the paper does not mention."""

_base_ = "./hcgnet-a1_1xb128-mixup-sgdr-1270e_cifar100.py"

# The peak is our choice, see mmhcgnet/models/dropblock.py.
model = dict(backbone=dict(dropblock=dict(block_size=2, drop_prob=0.1)))
custom_hooks = [dict(type="mmhcgnet.DropBlockHook")]
