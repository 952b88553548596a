"""Fine-tunes recognisers on the mini corpus: pre-trained, frozen, random weights and FBANK, by minutes of labels.

Run it where `wavlm demo` has been run, with `wavlm` on the PATH:  python experiments/finetuning/asr/run.py
It goes on where it stopped, and writes results.csv beside this file.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
from pathlib import Path

HERE = Path(__file__).parent
TUNED = "configs/finetune/asr_mini.yaml"
FROZEN = ["--model.upstream.fine_tuning.from_update", "1000000"]  # the head alone, under the same masks
AT_ONCE = ["--model.upstream.fine_tuning.from_update", "0"]
RANDOM = ["--model.upstream.source", "random:tiny"]
FBANK = ["--model.upstream", "Fbank", "--model.upstream.frozen", "true", "--model.learning_rate", "1e-2"]
HEAD_ALONE = ["--model.learning_rate", "1e-2"]
# Row -> options behind the configuration.
ROWS = {
    "pre-trained, head first": [],
    "pre-trained, both at once": AT_ONCE,
    "pre-trained, frozen": [*FROZEN, *HEAD_ALONE],
    "random, both at once": [*RANDOM, *AT_ONCE],
    "random, frozen": [*RANDOM, *FROZEN, *HEAD_ALONE],
    "FBANK": FBANK,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/finetuning/asr"))
    parser.add_argument("--minutes", type=float, nargs="+", default=[1, 5, 20])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--batch-seconds", type=float, default=40.0)
    given = parser.parse_args()
    for minutes in given.minutes:
        for row in given.rows:
            for seed in given.seeds:
                one(given, row, minutes, seed)
    table(given.out)


def one(given: argparse.Namespace, row: str, minutes: float, seed: int) -> None:
    """Fit and test one row."""
    folder = given.out / f"{row.replace(', ', '-').replace(' ', '-')}-{minutes:g}min-{given.steps}-{seed}"
    if (folder / "card.json").is_file():
        return
    options = ["-c", TUNED, *ROWS[row], "--data.train_seconds", f"{60 * minutes:g}"]
    options += ["--trainer.max_steps", str(given.steps), "--data.batch_seconds", str(given.batch_seconds)]
    options += ["--model.seed", str(seed), "--data.seed", str(seed), "--trainer.default_root_dir", str(folder)]
    options += ["--trainer.callbacks", "null"]  # every row trains as long
    resumed = ["--ckpt_path", "last"] if (folder / "checkpoints" / "last.ckpt").is_file() else []
    subprocess.run(["wavlm", "fit", *options, *resumed], check=True)
    subprocess.run(["wavlm", "test", str(folder)], check=True)


def table(out: Path) -> None:
    """All cards of the folder, a row each."""
    found = []
    for card in sorted(out.glob("*/card.json")):
        content = json.loads(card.read_text())
        row, minutes, steps, seed = card.parent.name.rsplit("-", 3)
        metrics = {name: round(content["metrics"][name]["value"], 2) for name in ("wer", "cer")}
        seconds = round(content["training_seconds"])
        found.append(
            {
                "row": row,
                "minutes": minutes.removesuffix("min"),
                "updates": steps,
                "seed": seed,
                **metrics,
                "seconds": seconds,
            }
        )
    with (HERE / "results.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(found[0]))
        writer.writeheader()
        writer.writerows(found)


if __name__ == "__main__":
    main()
