"""SGDR as in sgdr_630e.py, with a seventh cycle."""

_base_ = "./sgdr_630e.py"

param_scheduler = [
    dict(
        type="CosineRestartLR",
        by_epoch=True,
        periods=[10, 20, 40, 80, 160, 320, 640],
        restart_weights=[1] * 7,
        eta_min=0,
    )
]
train_cfg = dict(max_epochs=1270)
