#!/usr/bin/env bash
# Fine-tuned, frozen and from random weights: four tasks of the mini corpus, each row with the same YAML and updates.
# Needs a finished `wavlm demo` in the working directory; run from the repository's root with `wavlm` on the PATH.
# Arguments: the tasks (default: er ic sf sid).
set -euo pipefail
[ -d runs/mini/er ] || wavlm prepare mini --out runs/mini --datasets er ic sf sid
[ $# -gt 0 ] || set -- er ic sf sid
for name in "$@"; do
    for row in fine-tuned frozen random; do
        options=(--trainer.default_root_dir "runs/finetune/$name-$row")
        case $row in
            frozen) options+=(--model.upstream.frozen true --model.upstream.fine_tuning null --data.cache runs/mini/cache) ;;
            random) options+=(--model.upstream.source random:tiny) ;;
        esac
        wavlm fit -c "configs/finetune/mini/$name.yaml" "${options[@]}"
        wavlm test -c "configs/finetune/mini/$name.yaml" "${options[@]}" --ckpt_path best
    done
done
