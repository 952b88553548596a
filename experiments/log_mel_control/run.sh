#!/usr/bin/env bash
# What of the demo's gain is masked prediction's, and what the log-mel regression's? Equal budget, equal heads.
# Needs what experiments/demo/waveform.sh makes in runs/tiny; run from the repository's root with `wavlm` on the PATH.
set -euo pipefail
here=$(dirname "$0")
out=runs/log_mel_control
wavlm fit -c configs/pretrain/tiny_waveform.yaml -c "$here/control.yaml"
for task in pr ks sid; do
    options=(-c "configs/superb/mini/$task.yaml" --model.upstream.source $out/pretrain --model.upstream.label "log-mel only"
        --data.corpus "runs/tiny/corpus/$task" --data.cache $out/cache --trainer.default_root_dir "$out/$task")
    wavlm fit "${options[@]}"
    wavlm test "${options[@]}" --ckpt_path best
done
