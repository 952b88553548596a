#!/usr/bin/env bash
# All ten tasks on the mini corpus for the demo's encoder, random weights and FBANK; then the encoder on permuted labels.
# Needs a finished `wavlm demo` in the working directory; run from the repository's root with `wavlm` on the PATH.
set -euo pipefail
out=runs/superb_mini
time wavlm superb pre-trained=runs/demo/pretrain "random weights=random:tiny_wide" FBANK=fbank --data mini --output $out
for name in pr ks ic sid sv sd er qbe sf; do
    [ -f $out/permuted/$name/corpus.json ] || wavlm data permute $out/corpus/$name --out $out/permuted/$name
done
wavlm superb "permuted labels=runs/demo/pretrain" --data $out/permuted --output $out/control
