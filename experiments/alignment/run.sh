#!/bin/sh
# Trains an aligner on 24 minutes and measures it on unseen voices. Run it where `wavlm demo` has been run; it goes on where it stopped.
#   sh experiments/alignment/run.sh
set -e
corpus=runs/demo/corpus/pr
out=runs/alignment
[ -f $out/plain/checkpoints/last.ckpt ] && more="--ckpt_path last"
wavlm fit -c configs/finetune/mini/pr.yaml --trainer.default_root_dir $out/plain $more
wavlm test $out/plain
# The same head for 200 more updates with label priors, as arXiv 2406.02560 weighs them for phones.
wavlm fit -c configs/finetune/mini/pr.yaml --trainer.default_root_dir $out/priors --model.start_from $out/plain \
  --model.label_priors 0.35 --model.upstream.fine_tuning.from_update 0 --model.learning_rate 5e-4 --trainer.max_steps 200
wavlm align $out/plain $corpus --name plain
wavlm align $out/plain $corpus --name plain-100 --rate 100
wavlm align $out/plain $corpus --name realigned --realign
wavlm align $out/plain $corpus --name decoded --transcripts decoded
wavlm align $out/priors $corpus --name priors
