"""Noisy student on the mini corpus: a few minutes of true labels, the rest transcribed by a teacher, against true labels for all.

Run it where `wavlm demo` has been run, with `wavlm` on the PATH:  python experiments/noisy_student/run.py
It goes on where it stopped, prints the recovered share of each round, and writes OUT/results.csv.
"""

from __future__ import annotations

import argparse
import csv
import json
import statistics
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

from wavlm_lightning.reports.aggregate import recovered_share
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.ledger import Ledger, Stage

CONFIG = "configs/finetune/mini/asr_noisy_student.yaml"
NO_PSEUDO = ["--data.pseudo_corpus", "null"]
SHARES = (0.7, 0.9)  # of the transcripts, in the first round and in those after it
LABELLED, ORACLE = "labelled only", "oracle"
COLUMNS = (
    "row",
    "minutes",
    "updates",
    "seed",
    "wer",
    "cer",
    "pseudo_wer",
    "pseudo_wer_all",
    "pseudo_minutes",
    "seconds",
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/noisy_student"))
    parser.add_argument("--corpus", type=Path, default=Path("runs/demo/corpus/pr"))
    parser.add_argument("--encoder", default="runs/demo/pretrain")
    parser.add_argument("--minutes", type=float, default=5, help="of true labels")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--score", default="confidence")
    parser.add_argument("--lm", type=Path, help="ARPA file, of texts that the corpus does not have")
    given = parser.parse_args()
    try:
        rows = [row for seed in given.seeds for row in one_seed(given, seed)]
    except UserError as error:
        sys.exit(f"error: {error}")
    except subprocess.CalledProcessError as error:
        sys.exit(f"`{' '.join(error.cmd[:2])}` ended with status {error.returncode}; its error is above")
    with (given.out / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    means = {
        name: statistics.fmean(row["wer"] for row in rows if row["row"] == name)
        for name in {row["row"] for row in rows}
    }
    for name, value in sorted(means.items(), key=lambda pair: -pair[1]):
        share = recovered_share(means[LABELLED], value, means[ORACLE])
        said = "" if name in (LABELLED, ORACLE) else f", recovered share {'-' if share is None else f'{share:.2f}'}"
        print(f"{name}: WER {value:.2f} % over {len(given.seeds)} seeds{said}")


def one_seed(given: argparse.Namespace, seed: int) -> list[dict[str, Any]]:
    """The rows of a seed: the teacher, each student, and true labels for all.

    Raises:
        UserError: the folder holds runs of another encoder, corpus, score or language model.
    """
    folder = given.out / f"{given.minutes:g}min-{given.steps}-{seed}"
    paths = {"corpus": given.corpus, "encoder": given.encoder, "lm": given.lm}
    settings = {"score": given.score, **{name: path and str(Path(path).resolve()) for name, path in paths.items()}}
    ledger, of = Ledger(folder / "stages.json", settings, "noisy student"), given.rounds + 2
    few, teacher = ["--data.train_seconds", f"{60 * given.minutes:g}"], folder / "labelled"
    ledger.run(Stage("labelled", partial(train, given, teacher, [*few, *NO_PSEUDO], seed)), 1, of)
    rows = [row_of(given, LABELLED, teacher, seed)]
    for number in range(1, given.rounds + 1):
        pseudo, run = folder / f"pseudo{number}", folder / f"student{number}"
        share = SHARES[min(number, len(SHARES)) - 1]
        step = partial(teach, given, teacher, pseudo, share, run, few, seed)
        ledger.run(Stage(run.name, step), number + 1, of)
        teacher = run
        rows.append(row_of(given, f"student, round {number}", run, seed, pseudo))
    oracle = folder / "oracle"
    ledger.run(
        Stage("oracle", partial(train, given, oracle, ["--data.train_seconds", "null", *NO_PSEUDO], seed)), of, of
    )
    return [*rows, row_of(given, ORACLE, oracle, seed)]


def teach(
    given: argparse.Namespace, teacher: Path, pseudo: Path, share: float, run: Path, few: list[str], seed: int
) -> None:
    """Transcripts of a teacher, and the student that learns from them."""
    command = ["wavlm", "pseudo-label", str(teacher), str(given.corpus), "--out", str(pseudo)]
    command += ["--score", given.score, "--share", str(share)]
    if not (pseudo / "corpus.json").is_file():
        if given.lm:
            subprocess.run(["wavlm", "lm", "tune", str(teacher), "--lm", str(given.lm)], check=True)
            command += ["--lm", str(given.lm)]
        subprocess.run(command, check=True)
    train(given, run, [*few, "--data.pseudo_corpus", str(pseudo)], seed)


def train(given: argparse.Namespace, run: Path, more: list[str], seed: int) -> None:
    """Fit and test a run; rows differ in their labels alone."""
    if (run / "card.json").is_file():
        return
    options = ["-c", CONFIG, "--data.corpus", str(given.corpus), "--model.upstream.source", given.encoder, *more]
    options += ["--trainer.max_steps", str(given.steps), "--trainer.default_root_dir", str(run)]
    options += ["--trainer.val_check_interval", str(max(1, min(100, given.steps // 4)))]
    options += ["--trainer.check_val_every_n_epoch", "null", "--model.seed", str(seed), "--data.seed", str(seed)]
    resumed = ["--ckpt_path", "last"] if (run / "checkpoints" / "last.ckpt").is_file() else []
    subprocess.run(["wavlm", "fit", *options, *resumed], check=True)
    subprocess.run(["wavlm", "test", str(run)], check=True)


def row_of(given: argparse.Namespace, name: str, run: Path, seed: int, pseudo: Path | None = None) -> dict[str, Any]:
    """A row of results.csv, from the card of a run and the description of the corpus that it learned from."""
    card = json.loads((run / "card.json").read_text())
    row = {"row": name, "minutes": f"{card['labelled']['seconds'] / 60:.1f}", "updates": given.steps, "seed": seed}
    row |= {metric: round(card["metrics"][metric]["value"], 2) for metric in ("wer", "cer")}
    row |= {"seconds": round(card["training_seconds"])}
    if pseudo is not None:
        truth = json.loads((pseudo / "corpus.json").read_text())["source"]["pseudo_labels"]["truth"]
        row |= {"pseudo_wer": round(truth["selected"], 2), "pseudo_wer_all": round(truth["all"], 2)}
        row |= {"pseudo_minutes": f"{card['pseudo_labelled']['seconds'] / 60:.1f}"}
    return row


if __name__ == "__main__":
    main()
