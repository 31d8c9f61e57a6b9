"""What the released program does to a CIFAR network and the paper does not mention."""

released = dict(
    backbone=dict(
        # Its probability follows the cycles of SGDR from 0 to 0.1.
        dropblock=dict(block_size=2, drop_prob=0.1),
        weight_init="pytorch",
    ),
    head=dict(init_cfg=None),  # PyTorch's default as well
)
custom_hooks = [dict(type="mmhcgnet.DropBlockHook")]
