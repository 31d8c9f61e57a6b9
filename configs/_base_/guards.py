"""What guards a run: docs/safety.md."""

guards = dict(
    checkpoint=dict(type="mmhcgnet.SafeCheckpointHook"),
    strict_load=dict(type="mmhcgnet.StrictLoadHook"),
    data_guard=dict(type="mmhcgnet.DataGuardHook"),
    non_finite=dict(type="mmhcgnet.NonFiniteHook"),
    interrupt=dict(type="mmhcgnet.InterruptHook"),
    class_order=dict(type="mmhcgnet.ClassOrderHook"),
    untrained_norm=dict(type="mmhcgnet.UntrainedNormHook"),
)
