#!/bin/bash
# Pre-training on several machines without a scheduler: run this on each of them.
#   wavlm plan wavlm_base --cluster torchrun --nodes 2 --out runs/jobs     # this file, filled in
#   HEAD=first-machine bash runs/jobs/torchrun_fit.sh
set -euo pipefail

NODES=1
DEVICES=8
CONFIG=configs/pretrain/wavlm_base.yaml
RUN=runs/wavlm_base
# NODES x DEVICES x ACCUMULATE x BATCH_SECONDS is the audio of an update: keep it when you change one of them.
ACCUMULATE=4
BATCH_SECONDS=87.5

resume=()
# If the job was killed while it replaced a sharded checkpoint, only last.ckpt.old exists; `wavlm fit` renames it back.
if [ -e "$RUN/checkpoints/last.ckpt" ] || [ -e "$RUN/checkpoints/last.ckpt.old" ]; then
    resume=(--ckpt_path last)
fi

# --trainer.devices is required: `auto` means 1 on a CPU, which would contradict the number of processes.
torchrun --nnodes "$NODES" --nproc-per-node "$DEVICES" \
    --rdzv-backend c10d --rdzv-endpoint "${HEAD:-localhost}:29500" \
    -m wavlm_lightning fit -c "$CONFIG" \
    --trainer.default_root_dir "$RUN" \
    --trainer.num_nodes "$NODES" \
    --trainer.devices "$DEVICES" \
    --trainer.accumulate_grad_batches "$ACCUMULATE" \
    --data.batch_seconds "$BATCH_SECONDS" \
    ${resume[@]+"${resume[@]}"}
