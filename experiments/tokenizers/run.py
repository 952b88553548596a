"""Does the tokeniser matter? The same small encoder at equal updates from eight kinds of labels, on the mini corpus.

    python experiments/tokenizers/run.py --out runs/tokenizers

Every kind of labels trains an encoder a seed; each encoder is scored by PR, SID and SV (frozen) and by ASR that is fine-tuned
on five minutes of labels. The teachers of CTC clustering and P-BERT see the same five minutes. At the end a noisy student of
the P-BERT + ILS recogniser. Finished work is kept, and an interrupted call resumes. Writes `runs.csv` (every figure) and
`result.md` (mean and spread) to the output folder.
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
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm import tqdm

from wavlm_lightning.data.corpus import Corpus, CorpusWriter
from wavlm_lightning.data.shards import Utterance
from wavlm_lightning.data.split import Split
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import cpu_bf16_instructions
from wavlm_lightning.system.ledger import Ledger, Stage
from wavlm_lightning.workflows.codebook import score_codebook

ILS = Path(__file__).resolve().parents[1] / "ablations" / "full_ils.yaml"  # the same targets at layers 2 and 4
HEADS = {"pr": "PR PER ↓", "sid": "SID acc ↑", "sv": "SV EER ↓"}
COLUMNS = {**HEADS, "asr": "ASR WER ↓", "pnmi": "PNMI of labels % ↑"}
CLUSTERS = ("--clusters", 100, "--restarts", 5)
LETTERS, PHONES = "configs/finetune/asr_mini.yaml", "configs/finetune/mini/pr.yaml"
STUDENT = "student"


@dataclass(frozen=True)
class Row:
    """A kind of labels.

    Attributes:
        title: in the table.
        labels: name of the label set.
        fit: options of `wavlm codebook fit`; None for labels that are made otherwise.
        ils: whether layers 2 and 4 predict them.
    """

    title: str
    labels: str
    fit: tuple[object, ...] | None = None
    ils: bool = False


ROWS = {
    "mfcc": Row("MFCC k-means", "mfcc", (*CLUSTERS, "--level-normalised")),
    "pca": Row("context PCA k-means", "pca", (*CLUSTERS, "--features", "context")),
    "iteration2": Row("second iteration", "iteration2", (*CLUSTERS, "--layer", "auto")),
    "ctc": Row("CTC clustering", "ctc", (*CLUSTERS, "--layer", "auto")),
    "pbert": Row("P-BERT", "pbert"),
    "pbert_ils": Row("P-BERT + ILS", "pbert", ils=True),
    "best_rq": Row("BEST-RQ", "best_rq", ("--clusters", 100, "--features", "context", "--quantiser", "random")),
    "oracle": Row("phones of the synthesiser", "oracle"),
}


def wavlm(*words: object, log: Path | None = None, threads: int | None = None) -> None:
    """Run a command; its output goes to a file if one is given. A `UserError` if it fails."""
    command = [sys.executable, "-m", "wavlm_lightning", *map(str, words)]
    environment = {**os.environ} if threads is None else {**os.environ, "OMP_NUM_THREADS": str(threads)}
    with nullcontext() if log is None else log.open("a") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=file).returncode
    if status:
        where = "above" if log is None else f"at the end of {log}"
        raise UserError(f"`wavlm {words[0]}` ended with status {status}; its error is {where}")


class Tokenizers:
    """All runs in one folder.

    Args:
        out: the folder.
        steps: updates of every pre-training.
        tuning: updates of every fine-tuned recogniser, students included.
        teaching: updates of the teachers of CTC clustering and P-BERT.
        first: run folder of the encoder of the first iteration; None for the first encoder of MFCC k-means.
        heads: updates of the frozen heads; None for those of their configurations.
        seeds: of pre-training, for each row.
        minutes: of labels for recognisers and teachers.
        rows: keys of `ROWS`.
        size: of the mini corpus.
        encoder: preset of every encoder.
        jobs: runs at a time, of one thread each: two do more work on two cores than one of two threads.
    """

    def __init__(
        self,
        out: Path,
        steps: int,
        tuning: int,
        teaching: int,
        first: Path | None,
        heads: int | None,
        seeds: int,
        minutes: float,
        rows: list[str],
        size: str,
        encoder: str,
        jobs: int,
    ) -> None:
        self.out, self.steps, self.tuning, self.heads, self.seeds = out, steps, tuning, heads, seeds
        self.minutes, self.rows, self.size = minutes, rows, size
        self.teaching, self.first = teaching, first
        self.encoder, self.jobs = encoder, jobs
        self.corpus = out / "corpus" / "pretrain"
        self.labelled = out / "corpus" / "labelled"
        # Not timed: a resumed run must get the same.
        self.precision = "bf16-mixed" if cpu_bf16_instructions() else "32-true"

    def run(self) -> None:
        """Corpora, then the labels of every row, then its encoders and their scores, seed by seed.

        Raises:
            UserError: the folder holds runs with other settings, which the table would mix with these.
        """
        settings = {name: getattr(self, name) for name in ("steps", "tuning", "teaching", "minutes", "size", "encoder")}
        settings["first"] = self.first and str(self.first.resolve())
        ledger = Ledger(self.out / "stages.json", settings, "comparison of tokenisers")
        ledger.run(Stage("corpora", self.prepare), 1, 1)
        for name in self.rows:
            self.make_labels(ROWS[name])
        for seed in range(self.seeds):
            self.score_seed(seed)

    def prepare(self) -> None:
        """The mini corpora, and the labelled minutes."""
        wavlm("prepare", "mini", "--out", self.out / "corpus", "--size", self.size, "--datasets", "pretrain", *HEADS)
        if not (self.labelled / "corpus.json").is_file():
            first_minutes(Corpus.open(self.out / "corpus" / "pr"), self.labelled, self.minutes)

    def make_labels(self, row: Row) -> None:
        """The codebook and the labels of a row, after the encoder and the teacher that they need."""
        book, options = self.out / "codebooks" / row.labels, list(row.fit or ())
        if row.labels == "iteration2":
            options += ["--encoder", self.first_encoder()]
        elif row.labels == "ctc":
            options += ["--encoder", self.teacher("letters", LETTERS)]
        if not (book / "codebook.json").is_file():
            if row.fit is not None:
                wavlm("codebook", "fit", self.corpus, *options, "--out", book)
            else:
                alignments = "corpus" if row.labels == "oracle" else self.align()
                wavlm("codebook", "phones", self.corpus, "--alignments", alignments, "--out", book)
        wavlm("codebook", "apply", book, self.corpus, "--name", row.labels)

    def first_encoder(self) -> Path:
        """The run folder of the encoder of the first iteration."""
        if self.first is None:
            self.make_labels(ROWS["mfcc"])
            self.pretrain("mfcc", 0)
        return self.first or self.folder("mfcc", 0)

    def teacher(self, units: str, config: str) -> Path:
        """The run folder of a recogniser that is fine-tuned from the first iteration's encoder."""
        return self.tune(f"teacher-{units}", config, self.first_encoder(), 0, steps=self.teaching)

    def align(self) -> str:
        """The name of the alignments by a recogniser of phones, of speech that it decoded with the labelled phones' 4-grams."""
        lm = self.out / "phones.arpa"
        wavlm("lm", self.labelled, "--units", "phones", "--order", 4, "--out", lm)
        options = ("--transcripts", "decoded", "--labelled", self.labelled, "--lm", lm)
        wavlm("align", self.teacher("phones", PHONES), self.corpus, "--name", "pbert", *options)
        return "pbert"

    def score_seed(self, seed: int) -> None:
        """Pre-train and fine-tune the rows of a seed, train heads on them, and write the table."""
        runs = [(name, seed) for name in self.rows]
        self.together(f"pre-training, seed {seed}", [partial(self.pretrain, *run) for run in runs])
        recognisers: list[Callable[[], object]] = [partial(self.recognise, *run) for run in runs]
        self.together(f"fine-tuning, seed {seed}", recognisers)
        if "pbert_ils" in self.rows:  # after its teacher
            self.student(seed)
        heads = self.out / "heads" / str(seed)
        upstreams = [f"{name}-{seed}={self.folder(name, seed)}" for name in self.rows]
        steps = [] if self.heads is None else ["--steps", self.heads]
        options = ["--tasks", *HEADS, "--jobs", self.jobs, *steps]
        wavlm("superb", *upstreams, "--data", self.out / "corpus", "--output", heads, *options)
        shutil.rmtree(heads / "cache", ignore_errors=True)
        self.write()

    def together(self, what: str, jobs: Sequence[Callable[[], object]]) -> None:
        """Run jobs, `self.jobs` at a time."""
        with ThreadPoolExecutor(self.jobs) as pool, tqdm(total=len(jobs), desc=what, unit="run") as bar:
            for _ in pool.map(lambda job: job(), jobs):
                bar.update()

    def folder(self, name: str, seed: int) -> Path:
        """The folder of a pre-training run."""
        return self.out / "pretrain" / f"{name}-{seed}"

    def pretrain(self, name: str, seed: int) -> None:
        """Pre-train one encoder, or resume it."""
        row, folder = ROWS[name], self.folder(name, seed)
        options = ["-c", "configs/pretrain/tiny_waveform.yaml", *(["-c", ILS] if row.ils else [])]
        options += ["--data.corpus", self.corpus, "--data.labels", row.labels]
        options += ["--model.encoder", self.encoder, "--model.seed", seed, "--data.seed", seed]
        self.fit(folder, *options, "--trainer.precision", self.precision, steps=self.steps, every=200)

    def fit(self, folder: Path, *options: object, steps: int, every: int) -> None:
        """A `wavlm fit` in a folder, unless it is done there; a validation every `every` updates."""
        if (folder / "done").is_file():
            return
        folder.mkdir(parents=True, exist_ok=True)
        resumed = ["--ckpt_path", "last"] if (folder / "checkpoints" / "last.ckpt").exists() else []
        length = ["--trainer.max_steps", steps, "--trainer.val_check_interval", min(every, steps)]
        where = ["--trainer.default_root_dir", folder]
        wavlm("fit", *options, *length, *where, *resumed, log=folder / "log.txt", threads=1)
        (folder / "done").touch()

    def tune(
        self, name: str, config: str, encoder: Path, seed: int, *options: object, steps: int | None = None
    ) -> Path:
        """The run folder of a recogniser that is fine-tuned on the labelled minutes, with its card."""
        folder = self.out / "tuned" / name
        words = ["-c", config, "--model.upstream.source", encoder, "--data.corpus", self.labelled]
        self.fit(folder, *words, "--model.seed", seed, *options, steps=steps or self.tuning, every=100)
        if not (folder / "card.json").is_file():
            words += ["--model.seed", seed, "--trainer.default_root_dir", folder, "--ckpt_path", "best"]
            wavlm("test", *words, log=folder / "log.txt", threads=1)
        return folder

    def recognise(self, name: str, seed: int) -> Path:
        """The recogniser of an encoder."""
        return self.tune(f"{name}-{seed}", LETTERS, self.folder(name, seed), seed)

    def student(self, seed: int) -> None:
        """P-BERT + ILS, fine-tuned once more on the labels and on its recogniser's transcripts of the unlabelled speech."""
        teacher, pseudo = self.recognise("pbert_ils", seed), self.out / "pseudo" / str(seed)
        if not (pseudo / "corpus.json").is_file():
            log = self.out / "tuned" / f"pseudo-{seed}.txt"
            wavlm("pseudo-label", teacher, self.corpus, "--out", pseudo, "--share", 0.7, log=log, threads=1)
        config = "configs/finetune/mini/asr_noisy_student.yaml"
        options = ("--data.pseudo_corpus", pseudo, "--data.pseudo_share", 0.8, "--data.train_seconds", "null")
        self.tune(f"{STUDENT}-{seed}", config, self.folder("pbert_ils", seed), seed, *options)

    def figures(self) -> Iterator[dict[str, object]]:
        """All figures so far: row, seed, column, value; those of the labels have no seed."""
        for seed in range(self.seeds):
            for name in [*self.rows, STUDENT]:
                cards = {task: self.out / "heads" / str(seed) / f"{name}-{seed}" / task for task in HEADS}
                for column, folder in {**cards, "asr": self.out / "tuned" / f"{name}-{seed}"}.items():
                    if (folder / "card.json").is_file():
                        body = json.loads((folder / "card.json").read_text())
                        value = body["metrics"][body["headline"]]["value"]
                        yield {"row": name, "seed": seed, "column": column, "value": value}
        for name in self.rows:
            quality = score_codebook(self.corpus, ROWS[name].labels, "valid")  # the voices that no codebook saw
            if quality is not None:
                yield {"row": name, "seed": "", "column": "pnmi", "value": 100 * quality.pnmi}

    def write(self) -> None:
        """Write `runs.csv` and `result.md`."""
        rows = list(self.figures())
        with (self.out / "runs.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["row", "seed", "column", "value"])
            writer.writeheader()
            writer.writerows(rows)
        titles = {name: ROWS[name].title for name in self.rows} | {STUDENT: "P-BERT + ILS + noisy student"}
        lines = ["| labels | " + " | ".join(COLUMNS.values()) + " |", "|---|" + "---|" * len(COLUMNS)]
        for name, title in titles.items():
            cells = []
            for column in COLUMNS:
                values = [float(str(each["value"])) for each in rows if (each["row"], each["column"]) == (name, column)]
                spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
                cells.append(f"{statistics.mean(values):.1f}{spread}" if values else "")
            if any(cells):
                lines.append(f"| {title} | " + " | ".join(cells) + " |")
        (self.out / "result.md").write_text("\n".join(lines) + "\n")
        print("\n".join(lines))


def first_minutes(corpus: Corpus, out: Path, minutes: float) -> None:
    """A copy of a corpus whose training split holds only its first minutes, one utterance of each speaker in turn."""
    source = {**corpus.body["source"], "minutes": minutes}
    writer = CorpusWriter(out, f"{corpus.name}, {minutes:g} minutes", corpus.body["licence"], source)
    for name in corpus.splits:
        split = corpus.split(name)
        writer.write_split(name, _utterances(split, 60 * minutes if name == "train" else float("inf")))
    writer.finish(corpus.inventories)


def _utterances(split: Split, seconds: float) -> Iterator[Utterance]:
    """Utterances of all speakers in turn, as long as they last no longer than `seconds` together."""
    turns: dict[str, int] = {}
    metas, order = split.metas(), []
    for number, meta in enumerate(metas):
        turn = turns[meta["speaker"]] = turns.get(meta["speaker"], -1) + 1
        order.append((turn, number))
    for _, number in sorted(order):
        shard, place = split.locate(number)
        waveform = shard.waveform(place)
        seconds -= len(waveform) / 16_000
        if seconds < 0:
            return
        yield Utterance(shard.keys[place], waveform, metas[number])


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/tokenizers"))
    parser.add_argument("--steps", type=int, default=1000, help="updates of every pre-training")
    parser.add_argument("--tuning", type=int, default=400, help="updates of every fine-tuned recogniser")
    parser.add_argument(
        "--teaching", type=int, default=800, help="updates of the teachers of CTC clustering and P-BERT"
    )
    parser.add_argument("--first", type=Path, help="run of the first iteration's encoder (default: the first MFCC row)")
    parser.add_argument("--heads", type=int, help="updates of the frozen heads (default: their configurations')")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5.0, help="of labels for recognisers and teachers")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--size", choices=("tiny", "mini"), default="mini", help="of the mini corpus")
    parser.add_argument("--encoder", default="tiny", help="preset of every encoder")
    parser.add_argument("--jobs", type=int, default=2, help="runs of one thread at a time")
    try:
        Tokenizers(**vars(parser.parse_args())).run()
    except UserError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
