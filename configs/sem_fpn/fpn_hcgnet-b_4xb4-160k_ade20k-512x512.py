_base_ = [
    "../_base_/models/segmentor_hcgnet-b.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
]

model = dict(
    neck=dict(type="FPN", in_channels=_base_.hcgnet_b.channels, out_channels=256, num_outs=4),
    decode_head=dict(
        type="FPNHead",
        in_channels=[256, 256, 256, 256],
        in_index=[0, 1, 2, 3],
        feature_strides=[4, 8, 16, 32],
        channels=128,
    ),
    auxiliary_head=None,
)
