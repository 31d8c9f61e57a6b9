"""The paper's two consecutive CIFAR runs of 630 epochs in one.

The second starts from the weights of the first, with a fresh SGDR. As at every restart, the
momentum continues; that of another process would start at zero, which matters for some ten steps
(0.9^10 = 0.35).
"""

_base_ = "./sgdr_1270e.py"

param_scheduler = [
    dict(
        type="CosineRestartLR",
        by_epoch=True,
        periods=[10, 20, 40, 80, 160, 320] * 2,
        restart_weights=[1] * 12,
        eta_min=0,
    )
]
train_cfg = dict(max_epochs=1260)
