"""SGDR (Loshchilov and Hutter, ICLR 2017) twice in a row.

In a cycle of T epochs, epoch t = 0, ..., T - 1 has the rate 0.1 * (1 + cos(pi * t / T)) / 2. The
cycles double in length, from T_0 = 10; the run ends with its last cycle.

The paper's two consecutive runs of 630 epochs in one: the second starts from the weights of the
first, with a fresh SGDR. As at every restart, the momentum goes on; that of another process would
start at zero, which matters for some ten steps (0.9^10 = 0.35).
"""

param_scheduler = [
    dict(
        type="CosineRestartLR",
        by_epoch=True,
        periods=[10, 20, 40, 80, 160, 320] * 2,
        restart_weights=[1] * 12,
        eta_min=0,
    )
]
# Every cycle ends at a multiple of ten epochs.
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=1260, val_interval=10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
