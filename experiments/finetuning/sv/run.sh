#!/usr/bin/env bash
# Speaker verification in three stages on the mini corpus, with augmentation and without, on clean and on noisy trials.
# Needs a finished `wavlm demo` in the working directory; run from the repository's root with `wavlm` on the PATH.
set -euo pipefail
here=$(dirname "$0")
out=${OUT:-runs/finetuning/sv}
corpus=${CORPUS:-runs/mini/sv}
encoder=${ENCODER:-runs/demo/pretrain}
[ -d "$corpus" ] || wavlm prepare mini --out "$(dirname "$corpus")" --datasets sv
# Babble, which no training hears.
noise='[{class_path: wavlm_lightning.augment.transforms.AddNoise, init_args: {talkers: [3, 7], snr_db: [5, 15]}}]'
# The speeds alone: the classes stay three for each speaker.
speeds='[{class_path: wavlm_lightning.augment.transforms.ChangeSpeed, init_args: {PROBABILITYspeeds: [1.0, 0.9, 1.1], new_speakers: true}}]'

stage() { # arm, stage, stage whose average it begins with, checkpoints to average
    local run=$out/$1/$2 options=(-c "configs/finetune/mini/sv_ecapa_$2.yaml" --model.upstream.source "$encoder" --data.corpus "$corpus")
    [ -z "$3" ] || options+=(--model.start_from "$out/$1/$3-average")
    if [ "$1" = plain ]; then
        [ "$2" = large_margin ] && options+=(--data.transforms "${speeds/PROBABILITY/probability: 0.0, }") \
            || options+=(--data.transforms "${speeds/PROBABILITY/}")
    fi
    wavlm fit "${options[@]}" --trainer.default_root_dir "$run"
    wavlm average "$run" --last "$4" --out "$run-average" --batches 20
    for hears in clean noisy; do
        options=(-c "$run-average/config.yaml" --ckpt_path "$run-average/checkpoints/best.ckpt" --trainer.default_root_dir "$run-$hears")
        [ $hears = clean ] || options+=(--data.eval_transforms "$noise")
        wavlm test "${options[@]}"
    done
}
for arm in augmented plain; do
    stage $arm frozen "" 5
    stage $arm joint frozen 3
    stage $arm large_margin joint 3
done
python "$here/table.py" "$out"
