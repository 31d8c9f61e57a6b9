"""With the DropBlock of the released code, which the paper does not mention."""

_base_ = "./hcgnet-a3_1xb128-mixup-sgdr-2x630e_cifar10.py"

# The peak is our choice, see mmhcgnet/models/dropblock.py.
model = dict(backbone=dict(dropblock=dict(block_size=2, drop_prob=0.1)))
custom_hooks = [dict(type="mmhcgnet.DropBlockHook")]
