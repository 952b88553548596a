#!/bin/sh
# Trains an aligner on 24 minutes and measures it on unseen voices. Run it where `wavlm demo` has been run; it goes on where it stopped.
#   sh experiments/alignment/run.sh [UPDATES [UPDATES WITH PRIORS]]
set -e
corpus=runs/demo/corpus/pr
out=runs/alignment

fit() { # a run folder, its updates, further options: begins the run, or goes on
  folder=$1 updates=$2 resumed=
  shift 2
  if [ -f "$folder/checkpoints/last.ckpt" ]; then resumed="--ckpt_path last"; fi
  wavlm fit -c configs/finetune/mini/pr.yaml --trainer.default_root_dir "$folder" --trainer.max_steps "$updates" "$@" $resumed
}

fit $out/plain "${1:-800}"
wavlm test $out/plain
# The same head for 200 more updates with label priors, as arXiv 2406.02560 weighs them for phones.
fit $out/priors "${2:-200}" --model.start_from $out/plain --model.label_priors 0.35 \
  --model.upstream.fine_tuning.from_update 0 --model.learning_rate 5e-4
wavlm test $out/priors
wavlm align $out/plain $corpus --name plain
wavlm align $out/plain $corpus --name plain-100 --rate 100
wavlm align $out/plain $corpus --name realigned --realign
wavlm align $out/plain $corpus --name decoded --transcripts decoded
wavlm align $out/priors $corpus --name priors
