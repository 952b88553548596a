#!/usr/bin/env bash
# Does each objective learn? 250 updates of tiny_waveform.yaml with each kind of target, on the mini corpus, one thread each.
# Needs what experiments/demo/waveform.sh makes, in the folder DEMO (default: runs/tiny); run from the repository's root with `wavlm` on the PATH.
set -euo pipefail
demo=${DEMO:-runs/tiny}
out=${OUT:-runs/objectives}
mkdir -p "$out/demo"
cp -r "$demo/corpus" "$out/demo/"
corpus=$out/demo/corpus/pretrain
wavlm codebook apply "$demo/codebook" "$corpus" --name mfcc-level-k100-soft4 --soft 4 --temperature 1249 --jobs 1
wavlm codebook fit "$corpus" --encoder "$demo/pretrain" --layer 1 --clusters 50 --restarts 5 --out "$out/layer1" --jobs 1
wavlm codebook apply "$out/layer1" "$corpus" --name tiny_waveform-l1-k50 --jobs 1
train() {  # configuration, label set, options
    wavlm fit -c "configs/pretrain/$1.yaml" --data.corpus "$corpus" --data.labels "$2" --trainer.default_root_dir "$out/$1" \
        --trainer.max_steps 250 --trainer.val_check_interval 50 "${@:3}"
}
train tiny_waveform mfcc100
train tiny_ctcbert mfcc100
train tiny_soft mfcc-level-k100-soft4
train tiny_two_codebooks "[mfcc100, tiny_waveform-l1-k50]"
