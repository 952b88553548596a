#!/usr/bin/env bash
# From an empty folder to a report: a corpus of real recordings and of each foreign format, codebook, pre-training, heads, figures.
#   experiments/day_one/run.sh OUT [SPEECH]
# SPEECH holds recordings and manifest.csv (path, speaker, text, language); without it `wavlm prepare mini` makes synthetic ones.
# Needs `wavlm` and `python` of one installation with the extras [corpus,datasets,media] on the PATH. Finished steps are not
# repeated; the first error ends the script. Times are in OUT/times.txt, what the screen shows in OUT/screen.txt.
set -euo pipefail
here=$(realpath "$(dirname "$0")")
updates=${UPDATES:-300}
speech=${2:+$(realpath "$2")}
mkdir -p "${1:?usage: run.sh OUT [SPEECH]}"
cd "$1"
mkdir -p done data runs
# Finished steps are not repeated, so that other recordings or updates would be named and not used.
chosen="UPDATES=$updates, SPEECH=$speech"
if [ -e done/tables ] && [ -e chosen.txt ] && [ "$(< chosen.txt)" != "$chosen" ]; then
    echo "error: $PWD holds steps with $(< chosen.txt), and these are $chosen; give another OUT" >&2
    exit 1
fi
echo "$chosen" > chosen.txt
exec 3>&2
TIMEFORMAT="%R s, CPU %U + %S s"

# step NAME COMMAND...: print the command, run it, keep its time; nothing if it was done before.
step() {
    local name=$1
    shift
    if [ -e "done/$name" ]; then return; fi
    local word shown=''
    for word in "$@"; do
        case $word in *[!A-Za-z0-9_./:=,-]*) shown+=" '${word//"$here"/EXPERIMENT}'" ;; *) shown+=" ${word/#"$here"/EXPERIMENT}" ;; esac
    done
    printf '\n$%s\n' "$shown" | tee -a screen.txt
    { time "$@" 2>&3; } 2> "done/.$name" | tee -a screen.txt
    printf '%-20s %s\n' "$name" "$(tail -n 1 "done/.$name")" >> times.txt
    mv "done/.$name" "done/$name"
}

step doctor wavlm doctor

# 1. Recordings and a table of them.
if [ -n "$speech" ]; then
    ln -sfn "$speech" recordings
else
    step mini wavlm prepare mini --datasets pretrain --out data/mini
    step unpack python "$here/material.py" unpack data/mini/pretrain recordings
fi
step tables python "$here/material.py" tables recordings .
step prepare-all wavlm prepare folder recordings --manifest all.csv --name prompts --out data/all
step prepare-english wavlm prepare folder recordings --manifest english.csv --name english-prompts --out data/english
step info wavlm data info data/all --speakers
step check wavlm data check data/all --quick

# 2. The same recordings as other toolkits keep them.
step foreign python "$here/material.py" foreign recordings foreign
step kaldi wavlm prepare kaldi foreign/kaldi --out data/kaldi
step lhotse wavlm prepare lhotse foreign/lhotse --out data/lhotse
step nemo wavlm prepare folder recordings --manifest foreign/nemo.jsonl --out data/nemo
step stretches wavlm prepare folder recordings --manifest foreign/stretches.tsv --out data/stretches
step rttm wavlm prepare rttm foreign/rttm/all.rttm --audio foreign/rttm/audio --pieces 15 --valid 0.2 --test 0.2 --out data/meetings
step webdataset wavlm prepare webdataset 'foreign/webdataset/{000..002}.tar' --out data/webdataset
step audiofolder wavlm prepare huggingface foreign/audiofolder --out data/audiofolder
if [ -d foreign/parquet ]; then step parquet wavlm prepare huggingface foreign/parquet --out data/parquet; fi
if [ -d foreign/m4a ]; then step m4a wavlm prepare folder foreign/m4a --out data/m4a; fi
step info-meetings wavlm data info data/meetings
step info-webdataset wavlm data info data/webdataset

# 3. An encoder: labels, then masked prediction.
step codebook wavlm codebook fit data/all --clusters 100 --level-normalised --restarts 5 --out data/codebook
step labels wavlm codebook apply data/codebook data/all --name mfcc100
resume=()
if [ -e runs/encoder/checkpoints/last.ckpt ]; then resume=(--ckpt_path last); fi
step pretraining wavlm fit -c configs/pretrain/tiny_waveform.yaml --data.corpus data/all --data.min_seconds 1.0 \
    --trainer.max_steps "$updates" --trainer.default_root_dir runs/encoder "${resume[@]}"

# 4. Heads on the frozen encoder, on the same with random weights, and on FBANK: phones, and which voice. Two rates each.
for task in pr sid; do
    corpus=data/english rates='[4e-3,1.6e-2]' steps=200 cmvn=true
    if [ $task = sid ]; then corpus=data/all rates='[1e-3,3e-3]' steps=100 cmvn=false; fi
    for source in runs/encoder random:tiny FBANK; do
        run=runs/heads/$task-$(basename "${source/:/-}")
        upstream=(--model.upstream.source "$source")
        if [ $source = FBANK ]; then
            upstream=(--model.upstream wavlm_lightning.upstreams.Fbank --model.upstream.cmvn $cmvn)
        elif [ $source = runs/encoder ]; then
            upstream+=(--model.upstream.label "pre-trained, $updates updates")
        fi
        if [ ! -e "done/fit-${run##*/}" ]; then rm -rf "$run"; fi
        step "fit-${run##*/}" wavlm fit -c "configs/superb/mini/$task.yaml" "${upstream[@]}" --model.learning_rate "$rates" \
            --data.corpus "$corpus" --data.cache runs/cache --trainer.max_steps $steps --trainer.val_check_interval 50 \
            --trainer.default_root_dir "$run"
        step "test-${run##*/}" wavlm test "$run"
    done
done

# 5. What the heads answer for recordings that they have not heard, two files scored, and Python.
step heldout python "$here/material.py" heldout english.csv recordings heldout
for head in pr-encoder pr-FBANK; do
    best=$(python "$here/material.py" best "runs/heads/$head")
    step "predict-$head" wavlm predict "$best" heldout --out "answers/$head" > /dev/null
    step "texts-$head" python "$here/material.py" texts "answers/$head" "$head.txt"
done
step score wavlm score pr truth.txt pr-encoder.txt pr-FBANK.txt
first=$(find heldout -name '*.flac' | sort | head -n 1)
head=$(python "$here/material.py" best runs/heads/pr-encoder)
step python python -c "import wavlm_lightning as wl
print(wl.load_encoder(\"runs/encoder\", device=\"cpu\")(\"$first\").hidden.shape)
print(wl.load_head(\"$head\", device=\"cpu\")(\"$first\"))"

# 6. The report.
step report wavlm report runs/encoder runs/heads -o report --title "Day one"

awk '{wall += $2; cpu += $5 + $7} END {printf "%d steps: %.0f s, of which the processors worked %.0f s\n", NR, wall, cpu}' times.txt
