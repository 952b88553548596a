"""Fine-tunes recognisers: pre-trained, frozen, random weights and FBANK, by minutes of labels, greedy and with an n-gram.

Run it where `wavlm demo` has been run, with `wavlm` on the PATH:  python experiments/finetuning/asr/run.py
It goes on where it stopped, and writes results-CORPUS.csv beside this file.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import subprocess
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.fit.head_runs import HeadRun
from wavlm_lightning.workflows.fit.ownership import resumption

HERE = Path(__file__).parent
TUNED = "configs/finetune/asr_mini.yaml"
ENCODER = "runs/demo/pretrain"  # that of the configuration
FROZEN = ["--model.upstream.fine_tuning.from_update", "1000000"]  # the head alone, under the same masks
AT_ONCE = ["--model.upstream.fine_tuning.from_update", "0"]
RANDOM = ["--model.upstream.source", "random:tiny_wide"]
FBANK = ["--model.upstream", "Fbank", "--model.upstream.frozen", "true"]
HEAD_ALONE = ["--model.learning_rate", "1e-2"]
CHANGE_SPEED = "{class_path: wavlm_lightning.augment.transforms.ChangeSpeed, init_args: {speeds: [0.9, 1.0, 1.1]}}"
SPEEDS = ["--data.transforms", f"[{CHANGE_SPEED}]"]
# Row -> options behind the configuration.
ROWS = {
    "pre-trained, head first": [],
    "pre-trained, three speeds": SPEEDS,
    "pre-trained, both at once": AT_ONCE,
    "pre-trained, frozen": [*FROZEN, *HEAD_ALONE],
    "random, both at once": [*RANDOM, *AT_ONCE],
    "random, frozen": [*RANDOM, *FROZEN, *HEAD_ALONE],
    "FBANK": [*FBANK, *HEAD_ALONE],
}
CORPORA = {"mini": None, "english": "en-US", "spanish": "es-MX"}  # name -> language of shared/speech
LONGEST = 15.0  # seconds; longer recordings would not fit a batch
PUNCTUATION = set('.,;:!?¡¿"-–—…()')
APOSTROPHES = {"’": "'", "`": "'", "´": "'"}


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/finetuning/asr"))
    parser.add_argument("--corpus", choices=CORPORA, default="mini")
    parser.add_argument("--speech", type=Path, help="folder of recordings with manifest.csv, for english and spanish")
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[row for row in ROWS if ROWS[row] is not SPEEDS])
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-seconds", type=float, default=20.0)
    parser.add_argument("--learning-rate", type=float, default=2e-3, help="of the trained encoder and its head")
    parser.add_argument("--trials", type=int, default=20, help="sets of weights of the n-gram, searched on validation")
    given = parser.parse_args(argv)
    given.out = given.out / given.corpus
    corpus = Path("runs/demo/corpus/pr") if given.corpus == "mini" else real(given, CORPORA[given.corpus])
    model = given.out / "lm.arpa"
    if not model.is_file():
        given.out.mkdir(parents=True, exist_ok=True)
        # Text without audio: that of the corpus of pre-training; no sentence of validation or test is among it.
        texts = [str(corpus), *(["runs/demo/corpus/pretrain"] if given.corpus == "mini" else [])]
        subprocess.run(["wavlm", "lm", *texts, "--order", "3", "--out", str(model)], check=True)
    for seed in given.seeds:
        for minutes in given.minutes:
            for row in given.rows:
                one(given, corpus, model, row, minutes, seed)
    table(given.out, given.corpus)


def real(given: argparse.Namespace, language: str | None) -> Path:
    """The corpus of one language of a folder of recordings; made on the first call, after which --speech may be left out.

    Text: upper case, apostrophes kept, other punctuation removed. A text with any further character (digits, brackets with
    signs) leaves its recording out, and so does a length of more than 15 s. There is one voice a language, so that train and
    test share it.
    """
    corpus, manifest = given.out / "corpus", given.out / "manifest.csv"
    made = (corpus / "corpus.json").is_file()
    if given.speech is None:
        if not made:
            raise UserError(f"--corpus {given.corpus} needs --speech, a folder of recordings with manifest.csv")
        return corpus
    given.out.mkdir(parents=True, exist_ok=True)
    kept, dropped, long = [], 0, 0
    with (given.speech / "manifest.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            if row["language"] != language:
                continue
            if float(row["seconds"]) > LONGEST:
                long += 1
                continue
            text = unicodedata.normalize("NFC", row["text"]).upper()
            text = "".join(" " if each in PUNCTUATION else APOSTROPHES.get(each, each) for each in text)
            text = " ".join(text.split())
            if not text or not all(each.isalpha() or each in " '" for each in text):
                dropped += 1
                continue
            kept.append({name: row[name] for name in ("path", "speaker", "language")} | {"text": text})
    print(
        f"{given.corpus}: {len(kept)} recordings, {dropped} left out because of their text, {long} because of their length"
    )
    if not kept:
        raise UserError(f"{given.speech / 'manifest.csv'}: no usable recording of {language}")
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(kept[0]))
    writer.writeheader()
    writer.writerows(kept)
    if made:
        if manifest.read_bytes() != text.getvalue().encode():
            raise UserError(f"{corpus} was made of other recordings than those of {given.speech}; choose another --out")
        return corpus
    manifest.write_bytes(text.getvalue().encode())
    held = ["--valid", "0.1", "--test", "0.15", "--split-by", "file"]
    words = ["prepare", "folder", str(given.speech), "--manifest", str(manifest), "--out", str(corpus), *held]
    subprocess.run(["wavlm", *words], check=True)
    return corpus


def one(given: argparse.Namespace, corpus: Path, model: Path, row: str, minutes: float, seed: int) -> None:
    """Fit one row, search the weights of the n-gram on validation, and test."""
    folder = given.out / f"{row.replace(', ', '-').replace(' ', '-')}-{minutes:g}min-{given.steps}-{seed}"
    options = ["-c", TUNED, "--model.learning_rate", f"{given.learning_rate:g}", *ROWS[row]]
    options += ["--data.corpus", str(corpus), "--data.train_seconds", f"{60 * minutes:g}"]
    options += ["--trainer.max_steps", str(given.steps), "--data.batch_seconds", str(given.batch_seconds)]
    options += ["--trainer.val_check_interval", str(max(given.steps // 4, 1))]
    options += ["--model.seed", str(seed), "--data.seed", str(seed), "--trainer.default_root_dir", str(folder)]
    options += ["--trainer.callbacks", "null"]  # every row trains as long
    if given.corpus != "mini":
        options += ["--model.alphabet", "corpus"]
    # Everything that the card depends on, also what the name of the folder does not say.
    hears = [ENCODER] if row.startswith("pre-trained") else []
    run = HeadRun(folder, [*options, *hears, str(model), "--trials", str(given.trials)])
    run.check()
    if run.is_done:
        return
    run.begin()
    if not (folder / "language_model.yaml").is_file():
        subprocess.run(["wavlm", "fit", *options, *resumption(folder)], check=True)
        tune = ["lm", "tune", str(folder), "--lm", str(model), "--trials", str(given.trials)]
        subprocess.run(["wavlm", *tune], check=True)
    second = ["--model.language_model", str(folder / "language_model.yaml")]
    subprocess.run(["wavlm", "test", str(folder), *second], check=True)


def table(out: Path, corpus: str) -> None:
    """All cards of the folder, a row each, as CSV; mean and spread over seeds on the screen."""
    found, grouped = [], defaultdict(list)
    for card in sorted(out.glob("*/card.json")):
        content = json.loads(card.read_text())
        row, minutes, steps, seed = card.parent.name.rsplit("-", 3)
        metrics = {name: round(content["metrics"][name]["value"], 2) for name in ("wer", "wer_lm", "cer")}
        about = {"row": row, "minutes": float(minutes.removesuffix("min")), "updates": int(steps), "seed": seed}
        found.append({**about, **metrics, "seconds": round(content["training_seconds"])})
        grouped[row, about["minutes"], about["updates"]].append(metrics)
    with (HERE / f"results-{corpus}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)
    print("| row | minutes | updates | seeds | WER % greedy | WER % n-gram | CER % |\n|---|---|---|---|---|---|---|")
    for (row, minutes, steps), cards in sorted(grouped.items(), key=lambda each: (each[0][1], each[0][0])):
        columns = [[card[name] for card in cards] for name in ("wer", "wer_lm", "cer")]
        shown = [f"{mean(each):.1f}" + (f" ± {stdev(each):.1f}" if len(each) > 1 else "") for each in columns]
        print(f"| {row} | {minutes:g} | {steps} | {len(cards)} | {' | '.join(shown)} |")


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
