#!/usr/bin/env bash
# Fine-tuned, frozen and from random weights: four tasks of the mini corpus, each row with the same updates and batches.
# Needs a finished `wavlm demo` in the working directory; run from the repository's root with `wavlm` on the PATH.
# Arguments: the tasks (default: er ic sf sid).
set -euo pipefail
[ $# -gt 0 ] || set -- er ic sf sid
for name in "$@"; do
    [ -f "runs/mini/$name/corpus.json" ] || wavlm prepare mini --out runs/mini --datasets "$name"
    updates=300
    [ "$name" = sf ] && updates=500
    for row in fine-tuned frozen random; do
        run=(-c "configs/finetune/mini/$name.yaml")
        case $row in
            frozen)
                run=(-c "configs/superb/mini/$name.yaml" --data.corpus "runs/mini/$name" --data.cache runs/mini/cache)
                run+=(--data.batch_size 16 --trainer.max_steps "$updates" --trainer.val_check_interval 100) ;;
            random) run+=(--model.upstream.source random:tiny_wide) ;;
        esac
        run+=(--trainer.default_root_dir "runs/finetune/$name-$row")
        [ -f "runs/finetune/$name-$row/card.json" ] && continue
        wavlm fit "${run[@]}"
        wavlm test "${run[@]}" --ckpt_path best
    done
done
