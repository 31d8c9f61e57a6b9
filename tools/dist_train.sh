#!/usr/bin/env bash
# Train on several processes: dist_train.sh CONFIG GPUS [arguments of train.py]
# GPUS is the number of processes on this machine; without a GPU they run on the CPU.
# Several machines: set NNODES, NODE_RANK, MASTER_ADDR and PORT. Another python: set PYTHON.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "usage: $0 CONFIG GPUS [arguments of train.py]" >&2
    exit 2
fi
CONFIG=$1
GPUS=$2
shift 2

exec "${PYTHON:-python}" -m torch.distributed.run \
    --nnodes="${NNODES:-1}" \
    --node-rank="${NODE_RANK:-0}" \
    --master-addr="${MASTER_ADDR:-127.0.0.1}" \
    --master-port="${PORT:-29500}" \
    --nproc-per-node="$GPUS" \
    "$(dirname "${BASH_SOURCE[0]}")/train.py" "$CONFIG" --launcher pytorch "$@"
