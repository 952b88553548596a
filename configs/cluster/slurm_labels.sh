#!/bin/bash
# Labels a corpus with a SLURM job array: each of N tasks labels every N-th shard, with one GPU if an encoder runs.
#   wavlm plan wavlm_base --cluster slurm --out runs/jobs     # this file, filled in
#   sbatch runs/jobs/slurm_labels.sh
# Any task may be stopped, requeued or run twice: a shard has all of its labels or none. To use more or fewer tasks for the
# remaining shards, submit the file again with another --array.
#SBATCH --job-name=wavlm_base-labels
#SBATCH --array=1-8
#SBATCH --ntasks=1
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=4
#SBATCH --time=0-01:00:00
#SBATCH --requeue
#SBATCH --output=%x-%A_%a.log
set -euo pipefail

# Run this first, as one job on one machine: wavlm codebook fit CORPUS FIT_OPTIONS --out CODEBOOK
FIT_OPTIONS="--clusters 500 --encoder runs/hubert_base_it1 --layer 6 --share 0.1 --restarts 20"
CODEBOOK=runs/codebooks/hubert_base_it1-l6-k500
LABELS=hubert_base_it1-l6-k500
CORPORA=(data/librispeech960)

if [ ! -f "$CODEBOOK/codebook.json" ]; then
    echo "no codebook yet; first run: wavlm codebook fit ${CORPORA[0]} $FIT_OPTIONS --out $CODEBOOK" >&2
    exit 2
fi
for corpus in "${CORPORA[@]}"; do
    srun --cpus-per-task "$SLURM_CPUS_PER_TASK" wavlm codebook apply "$CODEBOOK" "$corpus" --name "$LABELS" --part auto
done
