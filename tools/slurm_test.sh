#!/usr/bin/env bash
# Test through Slurm: slurm_test.sh PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]
# GPUS processes, one for each GPU, GPUS_PER_NODE on a machine. More for srun, such as
# "--time=1:00:00": SRUN_ARGS. Another python: set PYTHON.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG CHECKPOINT [arguments of test.py]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
CHECKPOINT=$4
shift 4
GPUS=${GPUS:-8}
GPUS_PER_NODE=${GPUS_PER_NODE:-$((GPUS < 8 ? GPUS : 8))}

# shellcheck disable=SC2086 # SRUN_ARGS are several words
exec srun -p "$PARTITION" \
    --job-name="$JOB_NAME" \
    --gres="gpu:$GPUS_PER_NODE" \
    --ntasks="$GPUS" \
    --ntasks-per-node="$GPUS_PER_NODE" \
    --cpus-per-task="${CPUS_PER_TASK:-5}" \
    --kill-on-bad-exit=1 \
    ${SRUN_ARGS:-} \
    "${PYTHON:-python}" -u "$(dirname "${BASH_SOURCE[0]}")/test.py" "$CONFIG" "$CHECKPOINT" \
    --launcher=slurm "$@"
