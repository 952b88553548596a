"""What mixing, gate, intermediate supervision and the contrastive objective are worth on the mini corpus.

    python experiments/ablations/run.py --out runs/ablations

Six encoders a seed from the same codebook, equal updates, then five heads on each; at the end a second iteration, on
clusters of a layer of the first full WavLM. Finished work is kept, and an interrupted call resumes. Writes `runs.csv`
(every figure) and `result.md` (mean and spread) to the output folder.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm

from wavlm_lightning.system.hardware import cpu_bf16_instructions

HERE = Path(__file__).resolve().parent
VARIANTS = {
    "hubert": "HuBERT (no mixing, no bias)",
    "no_denoising": "WavLM, no mixing",
    "no_gated_bias": "WavLM, no gated bias",
    "full": "WavLM",
    "full_ils": "WavLM + ILS",
    "full_contrastive": "WavLM + contrastive",
}
ITERATION, ITERATION_LAYER = "iteration_2", 1
"""The layer whose labels have the highest PNMI against the mini corpus' phones (README)."""
NAMES = {**VARIANTS, ITERATION: "WavLM, second iteration"}
TASKS = {"pr": "PR PER ↓", "ks": "KS acc ↑", "sid": "SID acc ↑", "sv": "SV EER ↓", "sd": "SD DER ↓"}
PROCESSES = 2
"""Two runs of one thread do more work on two cores than one of two."""


def wavlm(*words: object, log: Path | None = None, threads: int | None = None) -> None:
    """Run a command; its output goes to a file if one is given."""
    command = [sys.executable, "-m", "wavlm_lightning", *map(str, words)]
    environment = {**os.environ} if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    if log is None:
        subprocess.run(command, check=True, env=environment)
        return
    with log.open("a") as file:
        subprocess.run(command, check=True, env=environment, stdout=file, stderr=file)


class Ablation:
    """All runs in one folder.

    Args:
        out: the folder.
        steps: updates of every pre-training.
        seeds: how many of each.
    """

    def __init__(self, out: Path, steps: int, seeds: int) -> None:
        self.out, self.steps, self.seeds = out, steps, seeds
        self.corpus = out / "corpus"

    def run(self) -> None:
        """Corpora and codebook, then seed by seed."""
        wavlm("prepare", "mini", "--out", self.corpus, "--datasets", "pretrain", *TASKS)
        if not (self.out / "codebook" / "codebook.json").is_file():
            options = ["--clusters", 100, "--level-normalised", "--restarts", 5]
            wavlm("codebook", "fit", self.corpus / "pretrain", *options, "--out", self.out / "codebook")
        wavlm("codebook", "apply", self.out / "codebook", self.corpus / "pretrain", "--name", "mfcc100")
        for seed in range(self.seeds):
            self.pretrain_and_score([(variant, seed) for variant in VARIANTS], self.out / "heads" / str(seed))
        codebook, first = self.out / "codebook2", self.folder("full", 0)
        if not (codebook / "codebook.json").is_file():
            options = ["--clusters", 100, "--restarts", 5, "--encoder", first, "--layer", ITERATION_LAYER]
            wavlm("codebook", "fit", self.corpus / "pretrain", *options, "--out", codebook)
        wavlm("codebook", "apply", codebook, self.corpus / "pretrain", "--name", ITERATION)
        self.pretrain_and_score([(ITERATION, seed) for seed in range(self.seeds)], self.out / "heads" / ITERATION)

    def pretrain_and_score(self, runs: list[tuple[str, int]], heads: Path) -> None:
        """Pre-train encoders two at a time, train five heads on each, then delete the feature cache."""
        bar = tqdm(total=len(runs), desc="pre-training", unit="run")
        with ThreadPoolExecutor(PROCESSES) as pool, bar:
            for _ in pool.map(lambda run: self.pretrain(*run), runs):
                bar.update()
        upstreams = [f"{variant}-{seed}={self.folder(variant, seed)}" for variant, seed in runs]
        wavlm("superb", *upstreams, "--data", self.corpus, "--output", heads, "--tasks", *TASKS)
        shutil.rmtree(heads / "cache", ignore_errors=True)
        self.write()

    def folder(self, variant: str, seed: int) -> Path:
        """The folder of a pre-training run."""
        return self.out / "pretrain" / f"{variant}-{seed}"

    def pretrain(self, variant: str, seed: int) -> None:
        """Pre-train one encoder, or resume it."""
        folder = self.folder(variant, seed)
        if (folder / "done").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        options = ["-c", "configs/pretrain/tiny.yaml"]
        options += ["--data.labels", ITERATION] if variant == ITERATION else ["-c", HERE / f"{variant}.yaml"]
        options += ["--data.corpus", self.corpus / "pretrain", "--model.seed", seed, "--data.seed", seed]
        precision = "bf16-mixed" if cpu_bf16_instructions() else "32-true"  # not timed: a resumed run must get the same
        options += ["--trainer.max_steps", self.steps, "--trainer.precision", precision]
        options += ["--trainer.default_root_dir", folder]
        if (folder / "checkpoints" / "last.ckpt").is_file():
            options += ["--ckpt_path", "last"]
        wavlm("fit", *options, log=folder / "log.txt", threads=1)
        (folder / "done").touch()

    def figures(self) -> list[dict[str, object]]:
        """All figures so far: variant, seed, task, percent."""
        rows: list[dict[str, object]] = []
        for seed in range(self.seeds):
            for variant in NAMES:
                heads = self.out / "heads" / (ITERATION if variant == ITERATION else str(seed))
                for task in TASKS:
                    card = heads / f"{variant}-{seed}" / task / "card.json"
                    if card.is_file():
                        body = json.loads(card.read_text())
                        value = body["metrics"][body["headline"]]["value"]
                        rows.append({"variant": variant, "seed": seed, "task": task, "percent": value})
                accuracy = self.masked_accuracy(variant, seed)
                if accuracy is not None:
                    rows.append({"variant": variant, "seed": seed, "task": "masked", "percent": 100 * accuracy})
        return rows

    def masked_accuracy(self, variant: str, seed: int) -> float | None:
        """Masked accuracy of the last validation, as a fraction."""
        values = []
        curves = sorted(self.folder(variant, seed).glob("curves/version_*/metrics.csv"))
        for row in csv.DictReader(curves[-1].open()) if curves else []:
            if row.get("valid/masked_accuracy"):
                values.append(float(row["valid/masked_accuracy"]))
        return values[-1] if values else None

    def write(self) -> None:
        """Write `runs.csv` and `result.md`."""
        rows = self.figures()
        with (self.out / "runs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["variant", "seed", "task", "percent"])
            writer.writeheader()
            writer.writerows(rows)
        columns = {**TASKS, "masked": "masked acc ↑"}
        lines = ["| | " + " | ".join(columns.values()) + " |", "|---|" + "---|" * len(columns)]
        for variant, name in NAMES.items():
            cells = []
            for task in columns:
                values = [float(str(r["percent"])) for r in rows if (r["variant"], r["task"]) == (variant, task)]
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
            lines.append(f"| {name} | " + " | ".join(cells) + " |")
        (self.out / "result.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    Ablation(arguments.out, arguments.steps, arguments.seeds).run()


if __name__ == "__main__":
    main()
