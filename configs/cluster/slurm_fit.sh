#!/bin/bash
# Pre-training on a SLURM cluster, one task per GPU. A job that is pre-empted or out of time is requeued and resumes.
#   wavlm plan wavlm_base --cluster slurm --nodes 2 --out runs/jobs     # this file, filled in
#   sbatch runs/jobs/slurm_fit.sh
#SBATCH --job-name=wavlm_base
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=8
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=7
#SBATCH --time=1-10:00:00
#SBATCH --requeue
# 90 s before the time limit, to this script only (B:): SIGUSR1 in the tasks would make Lightning write a checkpoint in the
# middle of an update, from which a run cannot resume exactly.
#SBATCH --signal=B:SIGUSR1@90
#SBATCH --open-mode=append
#SBATCH --output=%x-%j.log
set -euo pipefail

CONFIG=configs/pretrain/wavlm_base.yaml
RUN=runs/wavlm_base
# Nodes x tasks x ACCUMULATE x BATCH_SECONDS is the audio of an update: keep it when you change one of them.
ACCUMULATE=4
BATCH_SECONDS=87.5

resume=()
# If the job was killed while it replaced a sharded checkpoint, only last.ckpt.old exists; `wavlm fit` renames it back.
if [ -e "$RUN/checkpoints/last.ckpt" ] || [ -e "$RUN/checkpoints/last.ckpt.old" ]; then
    resume=(--ckpt_path last)
fi

# srun forwards SIGTERM: all tasks finish the same update and write last.ckpt. After a minute at most the job is requeued
# under its number, and resumes from the newest checkpoint.
requeue() {
    echo "time is nearly over: job $SLURM_JOB_ID is requeued"
    fit=$(jobs -p) # the signal may arrive before `fit=$!` below, or before srun
    [ -z "$fit" ] || kill -TERM "$fit" || true
    for _ in {1..60}; do
        [ -n "$fit" ] && kill -0 "$fit" 2> /dev/null || break
        sleep 1
    done
    scontrol requeue "$SLURM_JOB_ID"
    wait
}
trap requeue USR1

# In the background, because bash handles no signal while it waits for a foreground command.
srun --cpus-per-task "$SLURM_CPUS_PER_TASK" wavlm fit -c "$CONFIG" \
    --trainer.default_root_dir "$RUN" \
    --trainer.num_nodes "$SLURM_JOB_NUM_NODES" \
    --trainer.devices "$SLURM_NTASKS_PER_NODE" \
    --trainer.accumulate_grad_batches "$ACCUMULATE" \
    --data.batch_seconds "$BATCH_SECONDS" \
    ${resume[@]+"${resume[@]}"} &
fit=$!
wait "$fit"
