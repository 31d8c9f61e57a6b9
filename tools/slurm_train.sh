#!/usr/bin/env bash
# Train through Slurm: slurm_train.sh PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]
# GPUS processes, one for each GPU, GPUS_PER_NODE on a machine. More for srun, such as
# "--time=24:00:00 --signal=USR1@120": SRUN_ARGS. Another python: set PYTHON.
set -euo pipefail

if [ $# -lt 4 ]; then
    echo "usage: $0 PARTITION JOB_NAME CONFIG WORK_DIR [arguments of train.py]" >&2
    exit 2
fi
PARTITION=$1
JOB_NAME=$2
CONFIG=$3
WORK_DIR=$4
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
    "${PYTHON:-python}" -u "$(dirname "${BASH_SOURCE[0]}")/train.py" "$CONFIG" \
    --work-dir="$WORK_DIR" --launcher=slurm "$@"
