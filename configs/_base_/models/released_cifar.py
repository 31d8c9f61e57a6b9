"""What the released program does to a CIFAR network and the paper does not mention."""

released = dict(
    backbone=dict(
        # Its probability rises from 0 to 0.1 in each cycle of SGDR.
        dropblock=dict(block_size=2, drop_prob=0.1, style="released"),
        weight_init="pytorch",
    ),
    head=dict(init_cfg=None),  # PyTorch's default as well
)
released_hooks = [dict(type="mmhcgnet.DropBlockHook")]
