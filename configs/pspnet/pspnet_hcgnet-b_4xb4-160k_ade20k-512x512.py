_base_ = [
    "../_base_/models/segmentor_hcgnet-b.py",
    "../_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
]

model = dict(
    backbone=dict(output_stride=8),
    decode_head=dict(
        type="PSPHead",
        in_channels=_base_.hcgnet_b.channels[3],
        in_index=3,
        pool_scales=(1, 2, 3, 6),
        channels=512,
    ),
)
