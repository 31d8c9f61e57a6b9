"""How the released program trained its ImageNet networks, where the paper says otherwise."""

released = dict(
    backbone=dict(weight_init="pytorch"),
    neck=dict(_delete_=True, type="GlobalAveragePooling"),  # without dropout
    head=dict(
        init_cfg=None,  # PyTorch's default as well
        # 0.9 for the right class, 0.1 / 999 for every other one. In the mode 'original' that one
        # has label_smooth_val / 1000.
        loss=dict(label_smooth_val=0.1 * 1000 / 999),
    ),
)
