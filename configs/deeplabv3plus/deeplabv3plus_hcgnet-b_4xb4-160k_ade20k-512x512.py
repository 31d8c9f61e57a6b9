_base_ = [
    "../_base_/models/segmentor_hcgnet-b.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
]

model = dict(
    backbone=dict(output_stride=8),
    decode_head=dict(
        type="DepthwiseSeparableASPPHead",
        in_channels=_base_.hcgnet_b.channels[3],
        in_index=3,
        dilations=(1, 12, 24, 36),
        c1_in_channels=_base_.hcgnet_b.channels[0],
        c1_channels=48,
        channels=512,
    ),
)
