"""What guards a run, docs/safety.md, and the loops of every run."""

guards = dict(
    checkpoint=dict(type="mmhcgnet.SafeCheckpointHook"),
    strict_load=dict(type="mmhcgnet.StrictLoadHook"),
    data_guard=dict(type="mmhcgnet.DataGuardHook"),
    non_finite=dict(type="mmhcgnet.NonFiniteHook"),
    interrupt=dict(type="mmhcgnet.InterruptHook"),
    class_order=dict(type="mmhcgnet.ClassOrderHook"),
    untrained_norm=dict(type="mmhcgnet.UntrainedNormHook"),
    log_guard=dict(type="mmhcgnet.LogGuardHook"),
    same_buffers=dict(type="mmhcgnet.SameBuffersHook"),
)

loops = dict(
    epochs=dict(type="mmhcgnet.ResumableEpochLoop"),
    iterations=dict(type="mmhcgnet.ResumableIterLoop"),
)
