"""SGDR (Loshchilov and Hutter, ICLR 2017) with six cycles.

In a cycle of T epochs, epoch t = 0, ..., T - 1 has the rate 0.1 * (1 + cos(pi * t / T)) / 2. The
cycles double in length, from T_0 = 10; the run ends with its last cycle.
"""

param_scheduler = [
    dict(
        type="CosineRestartLR",
        by_epoch=True,
        periods=[10, 20, 40, 80, 160, 320],
        restart_weights=[1] * 6,
        eta_min=0,
    )
]
# Every cycle ends at a multiple of ten epochs.
train_cfg = dict(type="mmhcgnet.ResumableEpochLoop", max_epochs=630, val_interval=10)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
