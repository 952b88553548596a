"""What mixing, gate, intermediate supervision and the contrastive objective are worth on the mini corpus.

    python experiments/ablations/run.py --out runs/ablations

Six encoders a seed from the same codebook, equal updates, then five heads on each; at the end a second iteration, on
clusters of a layer of the first full WavLM. Finished work is kept, and an interrupted call resumes. Writes `runs.csv`
(every figure) and `result.md` (mean and spread) to the output folder.

Does mixing show where voices overlap? Two encoders a seed, and tasks of `configs/fullstack` as measures; `result.md` then ends
with the difference that mixing makes within each seed:

    python experiments/ablations/run.py --out runs/mixing --recipe tiny --variants full no_denoising --tasks ts_asr tse osd
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from scipy.stats import ttest_rel
from tqdm import tqdm

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.curves import read_curves
from wavlm_lightning.reports.tables import ARROWS, metric_title
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import cpu_bf16_instructions
from wavlm_lightning.system.ledger import Ledger, Stage
from wavlm_lightning.system.run_folder import curve_files
from wavlm_lightning.workflows.demo.stages import FEW_CLUSTERS
from wavlm_lightning.workflows.recipe.chain import chain, short_hash
from wavlm_lightning.workflows.recipe.labels import fit_options
from wavlm_lightning.workflows.superb.suites import chains, check_tasks, corpus_name, task_name

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
MIXING, WITHOUT = "full", "no_denoising"
"""The two variants that differ in utterance mixing alone."""
OF_DEFAULT = ("full_ils", "full_contrastive", ITERATION)
"""Variants that name layers and objectives of the default recipe."""
RECIPE = "tiny_waveform"
TASKS = ("pr", "ks", "sid", "sv", "sd")
MASKED = "masked accuracy"
PROCESSES = 2
"""Two runs of one thread do more work on two cores than one of two."""


def wavlm(*words: object, log: Path | None = None, threads: int | None = None) -> None:
    """Run a command; its output goes to a file if one is given. A `UserError` if it fails."""
    command = [sys.executable, "-m", "wavlm_lightning", *map(str, words)]
    environment = {**os.environ} if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with nullcontext() if log is None else log.open("a") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=file).returncode
    if status:
        where = "above" if log is None else f"at the end of {log}"
        raise UserError(f"`wavlm {words[0]}` ended with status {status}; its error is {where}")


class Ablation:
    """All runs in one folder.

    Args:
        out: the folder.
        steps: updates of every pre-training.
        seeds: how many of each.
        variants: names of `VARIANTS`, and `iteration_2`, which needs `full`.
        tasks: of `wavlm superb`; none to pre-train alone.
        jobs: heads at a time.
        size: of the mini corpora; that of the recipe if None, `tiny` for a first look.
        recipe: a configuration of `configs/pretrain` whose labels are clusters of features.
    """

    def __init__(
        self,
        out: Path,
        steps: int,
        seeds: int,
        variants: Sequence[str],
        tasks: Sequence[str],
        jobs: int,
        size: str | None,
        recipe: str,
    ) -> None:
        self.out, self.steps, self.seeds = out, steps, seeds
        self.variants, self.jobs = variants, jobs
        self.tasks = check_tasks(tasks, mini=True) if tasks else []
        self.corpus = out / "corpus"
        self.base = chain(recipe)[-1]
        self.size = size or self.base.recipe.size

    def run(self) -> None:
        """Corpora and codebook, then seed by seed.

        Raises:
            UserError: the folder holds encoders of another length, size or recipe, which the table would mix with these.
        """
        settings = {
            "steps": self.steps,
            "size": self.size,
            "recipe": f"{self.base.name} {short_hash(self.base.content)}",
        }
        ledger = Ledger(self.out / "stages.json", settings, "set of ablations")
        datasets = ["pretrain", *self.datasets()]
        wavlm("prepare", "mini", "--out", self.corpus, "--size", self.size, "--datasets", *datasets)
        labels, codebook = self.base.content["data"]["init_args"]["labels"], self.base.recipe.codebook
        if codebook is None or codebook.clusters is None or codebook.encoder is not None:
            raise UserError(f"{self.base.path}: labels of this experiment are clusters of features, without an encoder")
        clusters = min(codebook.clusters, FEW_CLUSTERS) if self.size == "tiny" else codebook.clusters
        options = ["--clusters", clusters, *fit_options(codebook, labels), "--out", self.out / "codebook"]
        fit = partial(wavlm, "codebook", "fit", self.corpus / "pretrain", *options)
        ledger.run(Stage("codebook", fit), 1, 1)
        wavlm("codebook", "apply", self.out / "codebook", self.corpus / "pretrain", "--name", labels)
        for seed in range(self.seeds):
            variants = [variant for variant in self.variants if variant != ITERATION]
            self.pretrain_and_score([(variant, seed) for variant in variants], self.out / "heads" / str(seed))
        if ITERATION not in self.variants:
            return
        codebook, first = self.out / "codebook2", self.folder("full", 0)
        if not (codebook / "codebook.json").is_file():
            options = ["--clusters", 100, "--restarts", 5, "--encoder", first, "--layer", ITERATION_LAYER]
            wavlm("codebook", "fit", self.corpus / "pretrain", *options, "--out", codebook)
        wavlm("codebook", "apply", codebook, self.corpus / "pretrain", "--name", ITERATION)
        self.pretrain_and_score([(ITERATION, seed) for seed in range(self.seeds)], self.out / "heads" / ITERATION)

    def datasets(self) -> list[str]:
        """The corpora of the tasks, and of the tasks whose runs these start from."""
        return list(dict.fromkeys(corpus_name(task, True) for task in chains(self.tasks, True)))

    def pretrain_and_score(self, runs: list[tuple[str, int]], heads: Path) -> None:
        """Pre-train encoders two at a time, train five heads on each, then delete the feature cache."""
        bar = tqdm(total=len(runs), desc="pre-training", unit="run")
        with ThreadPoolExecutor(PROCESSES) as pool, bar:
            for _ in pool.map(lambda run: self.pretrain(*run), runs):
                bar.update()
        if not self.tasks:
            return
        options = ["--tasks", *self.tasks, "--jobs", self.jobs]
        upstreams = [f"{variant}-{seed}={self.folder(variant, seed)}" for variant, seed in runs]
        wavlm("superb", *upstreams, "--data", self.corpus, "--output", heads, *options)
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
        options = ["-c", str(self.base.path)]
        if variant == ITERATION:
            options += ["--data.labels", ITERATION]
        elif variant != MIXING:  # that one is the recipe as it is
            options += ["-c", HERE / f"{variant}.yaml"]
        options += ["--data.corpus", self.corpus / "pretrain", "--model.seed", seed, "--data.seed", seed]
        precision = "bf16-mixed" if cpu_bf16_instructions() else "32-true"  # not timed: a resumed run must get the same
        options += ["--trainer.max_steps", self.steps, "--trainer.precision", precision]
        options += ["--trainer.default_root_dir", folder]
        if (folder / "checkpoints" / "last.ckpt").is_file():
            options += ["--ckpt_path", "last"]
        wavlm("fit", *options, log=folder / "log.txt", threads=1)
        (folder / "done").touch()

    def figures(self) -> list[dict[str, object]]:
        """All figures so far: variant, seed, task, metric, value in its unit, and whether high or low is good."""
        rows: list[dict[str, object]] = []
        for seed in range(self.seeds):
            for variant in self.variants:
                heads = self.out / "heads" / (ITERATION if variant == ITERATION else str(seed))
                place = {"variant": variant, "seed": seed}
                for task in self.tasks:
                    file = heads / f"{variant}-{seed}" / task_name(task) / "card.json"
                    card = ResultCard.read(file) if file.is_file() else None
                    for name in card.shown if card is not None else []:
                        metric = card.metrics[name]
                        figure = {"value": metric["value"], "unit": metric["unit"], "better": metric["better"]}
                        rows.append({**place, "task": card.task, "metric": name, **figure})
                accuracy = self.masked_accuracy(variant, seed)
                if accuracy is not None:
                    figure = {"value": 100 * accuracy, "unit": "%", "better": "higher"}
                    rows.append({**place, "task": "", "metric": MASKED, **figure})
        return rows

    def masked_accuracy(self, variant: str, seed: int) -> float | None:
        """Masked accuracy of the last validation, as a fraction."""
        curve = read_curves(curve_files(self.folder(variant, seed))).get("valid/masked_accuracy")
        return None if curve is None else curve.last

    def write(self) -> None:
        """Write `runs.csv` and `result.md`."""
        rows = self.figures()
        with (self.out / "runs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["variant", "seed", "task", "metric", "value", "unit", "better"])
            writer.writeheader()
            writer.writerows(rows)
        columns = {(str(row["task"]), str(row["metric"])): _title(row) for row in rows}
        units = {(str(row["task"]), str(row["metric"])): row["unit"] for row in rows}
        columns = dict(sorted(columns.items(), key=lambda column: column[0][1] == MASKED))
        lines = ["| | " + " | ".join(columns.values()) + " |", "|---|" + "---|" * len(columns)]
        for variant in self.variants:
            cells = []
            for column in columns:
                values = list(_by_seed(rows, variant, column).values())
                decimals = 2 if units[column] != "%" else 1
                spread = f" ± {statistics.stdev(values):.{decimals}f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.{decimals}f}{spread}" if values else "")
            lines.append(f"| {NAMES[variant]} | " + " | ".join(cells) + " |")
        lines += mixing_effect(rows, columns)
        (self.out / "result.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


def mixing_effect(rows: Sequence[dict[str, object]], columns: Mapping[tuple[str, str], str]) -> list[str]:
    """Lines that say what mixing changes: the difference of each seed, their mean, and its 95 % interval (paired t-test)."""
    lines = []
    for column, title in columns.items():
        one, other = (_by_seed(rows, variant, column) for variant in (MIXING, WITHOUT))
        seeds = [seed for seed in one if seed in other]
        if len(seeds) < 2:
            continue
        differences = [one[seed] - other[seed] for seed in seeds]
        if len(set(differences)) == 1:  # the test divides by their spread
            verdict, ends = "no spread over seeds, so no test", ""
        else:
            interval = ttest_rel([one[seed] for seed in seeds], [other[seed] for seed in seeds]).confidence_interval()
            ends = f"[{interval.low:+.2f}, {interval.high:+.2f}]"
            sure = interval.low > 0 or interval.high < 0
            helps = (statistics.mean(differences) > 0) == ("↑" in title)
            verdict = ("mixing helps" if helps else "mixing hurts") if sure else "no difference beyond the seeds"
        cells = [
            ", ".join(f"{each:+.2f}" for each in differences),
            f"{statistics.mean(differences):+.2f}",
            ends,
            verdict,
        ]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    head = ["", "| with mixing minus without | each seed | mean | 95 % interval | |", "|---|---|---|---|---|"]
    return [*head, *lines] if lines else []


def _title(row: dict[str, object]) -> str:
    unit = "" if row["unit"] == "%" else str(row["unit"])
    return " ".join(
        filter(None, [str(row["task"]), metric_title(str(row["metric"])), unit, ARROWS[str(row["better"])]])
    )


def _by_seed(rows: Sequence[dict[str, object]], variant: str, column: tuple[str, str]) -> dict[int, float]:
    return {
        int(str(row["seed"])): float(str(row["value"]))
        for row in rows
        if row["variant"] == variant and (row["task"], row["metric"]) == column
    }


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--variants", nargs="+", choices=list(NAMES), default=list(NAMES), metavar="NAME")
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), help="of `wavlm superb`; none to pre-train alone")
    parser.add_argument("--jobs", type=int, default=PROCESSES, help="heads at a time")
    parser.add_argument(
        "--size", choices=("tiny", "mini", "medium"), help="of the corpora (default: that of the recipe)"
    )
    parser.add_argument("--recipe", default=RECIPE, help="configuration of configs/pretrain (%(default)s)")
    arguments = parser.parse_args()
    if ITERATION in arguments.variants and MIXING not in arguments.variants:
        parser.error(f"--variants {ITERATION} needs {MIXING}, whose layers make its labels")
    if arguments.recipe != RECIPE and (wrong := [name for name in OF_DEFAULT if name in arguments.variants]):
        parser.error(f"--variants {wrong[0]} is made for --recipe {RECIPE}; name others with --variants")
    try:
        Ablation(**vars(arguments)).run()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
