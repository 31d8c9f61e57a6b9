"""Fine-tuning of all layers: AdamW, with smaller learning rates for earlier layers of the backbone.

``mask-rcnn_hcgnet-b_fpn_finetune_12e_shapes.py`` keeps the stem and the first stage as they are.
Here they learn, too, but slowly, so that they stay close to what they were pretrained for.
"""

_base_ = "./mask-rcnn_hcgnet-b_fpn_finetune_12e_shapes.py"

model = dict(backbone=dict(frozen_stages=-1))

# 33 layers precede the heads: 0.9**33 is 0.031, the stem's factor. Frozen norms have no statistics
# to learn, but weights and biases, which are not decayed.
optim_wrapper = dict(
    constructor="mmhcgnet.LayerDecayConstructor",
    paramwise_cfg=dict(layer_decay_rate=0.9, norm_decay_mult=0.0, bias_decay_mult=0.0),
    # 1e-4 is what detectors are commonly fine-tuned with for 16 images; a rate of AdamW goes with
    # the root of the batch: 1e-4 * (2 / 16)**0.5 = 3.5e-5.
    optimizer=dict(_delete_=True, type="AdamW", lr=3.5e-5, weight_decay=0.05),
)
