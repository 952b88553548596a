#!/usr/bin/env bash
# The demo's corpora, labels and encoder until November 2026 (configs/pretrain/tiny_waveform.yaml), on which other experiments build.
# Run from the repository's root with `wavlm` on the PATH; what is finished is not made again. Everything is in runs/tiny.
set -euo pipefail
out=runs/tiny
wavlm prepare mini --out $out/corpus --datasets pretrain pr ks sid
[ -f $out/codebook/codebook.json ] ||
    wavlm codebook fit $out/corpus/pretrain --clusters 100 --level-normalised --restarts 5 --out $out/codebook
wavlm codebook apply $out/codebook $out/corpus/pretrain --name mfcc100
resumed=()
[ -f $out/pretrain/checkpoints/last.ckpt ] && resumed=(--ckpt_path last)
wavlm fit -c configs/pretrain/tiny_waveform.yaml "${resumed[@]}"
