"""Plan the runs of SUPERB: every task on every upstream, with its folds and learning rates, cheapest task first."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.name_hints import nearest
from wavlm_lightning.system.plugins import import_by_path
from wavlm_lightning.system.shipped_configs import configs_folder
from wavlm_lightning.system.yaml_files import read_yaml
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.upstreams.specs import resolve
from wavlm_lightning.workflows.fit.head_runs import HeadRun
from wavlm_lightning.workflows.fit.joint_heads import HeadLists

# Cost of a task relative to KS, in the order in which tasks are run; used for the estimate of the time left.
COST: dict[str, float] = {
    "ks": 1, "ic": 1, "sid": 1.5, "er": 1, "pr": 2, "qbe": 1.5, "sd": 4, "sv": 2, "sf": 7, "asr": 8,
}  # fmt: skip
# Tasks whose head averages over time: after CMVN that average is the same for all utterances (s3prl issue 316).
POOLED = ("ks", "ic", "sid", "er")
FOLDS = 5


@dataclass(frozen=True)
class UpstreamSpec:
    """An upstream as the command line names it."""

    spec: str  # the word on the command line
    class_path: str
    init_args: dict[str, Any]

    @classmethod
    def parse(cls, spec: str) -> UpstreamSpec:
        """Read a word of the command line (see `wavlm_lightning.upstreams.specs`)."""
        return cls(spec, *resolve(spec))

    @property
    def label(self) -> str:
        """Its name in tables."""
        return self.init_args.get("label") or {"fbank": "FBANK", "mfcc": "MFCC"}.get(self.spec, self.spec)

    @property
    def folder(self) -> str:
        """Name of its folder, made of the label if there is one, else of the word on the command line."""
        name = self.label if "=" in self.spec else self.spec
        slug = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")
        return slug or hashlib.sha256(name.encode()).hexdigest()[:12]

    def options(self, task: str) -> list[str]:
        """Options of `wavlm fit` that choose this upstream for a task."""
        arguments = dict(self.init_args)
        if task in POOLED and self.spec.split("=")[-1].strip() in ("fbank", "mfcc"):
            arguments["cmvn"] = False
        options = ["--model.upstream", self.class_path]
        for name, value in arguments.items():
            options += [f"--model.upstream.{name}", _word(value)]
        return options


def parse_upstreams(specs: Sequence[str]) -> list[UpstreamSpec]:
    """Read all upstreams of a command."""
    upstreams = [UpstreamSpec.parse(spec) for spec in specs]
    for one, other in combinations(upstreams, 2):
        if one.label == other.label or one.folder == other.folder:
            both = f"{one.spec!r} and {other.spec!r}"
            raise UserError(f"{both} would share a row or a folder; put LABEL= in front of one")
    return upstreams


@dataclass(frozen=True)
class Cell:
    """A task on an upstream: one figure of the table."""

    task: str  # name of its YAML
    upstream: UpstreamSpec
    folder: Path  # for its runs and its card
    runs: list[HeadRun]  # one run, or one per fold; each trains the heads of all learning rates
    rates: list[float]  # learning rates to try; empty for the rate of the YAML

    def results(self) -> dict[float | None, list[Path]]:
        """Learning rate (None: that of the YAML) -> the folders with a card, one per fold."""
        if not self.rates:
            return {None: [run.folder for run in self.runs]}
        return {rate: [run.results[place] for run in self.runs] for place, rate in enumerate(self.rates)}


def config_name(task: str, mini: bool) -> str:
    """The path of a task's YAML, for `-c`."""
    return f"configs/superb/{'mini/' if mini else ''}{task}.yaml"


def configuration(task: str, mini: bool) -> dict[str, Any]:
    """The content of a task's YAML."""
    return read_yaml(configs_folder().parent / config_name(task, mini), "the configuration of a task")


def corpus_name(task: str, mini: bool) -> str:
    """Name of a task's corpus in the folder of corpora."""
    return Path(configuration(task, mini)["data"]["init_args"]["corpus"]).name


def official_rates(task: str) -> list[float]:
    """The learning rates that SUPERB's authors tried, from the task's sweep file."""
    content = read_yaml(configs_folder() / "sweeps" / "superb" / f"{task}.yaml", "a sweep file")
    return [float(rate) for rate in content["parameters"]["model.learning_rate"]["values"]]


def plan_cell(
    task: str,
    upstream: UpstreamSpec,
    data: Path,
    out: Path,
    *,
    mini: bool,
    rates: Sequence[float] | None,
    steps: int | None,
) -> Cell:
    """Plan all runs of a task on an upstream; `data` is the folder of corpora, `rates` and `steps` replace the YAML's."""
    content, corpus, folder = configuration(task, mini), data / corpus_name(task, mini), out / upstream.folder / task
    options = ["-c", config_name(task, mini), "--data.corpus", str(corpus)]
    if content["data"]["init_args"].get("cache"):
        options += ["--data.cache", str(out / "cache")]
    options += upstream.options(task)
    trained = "learning_rate" in content["model"]["init_args"]
    if steps is not None and trained:
        # val_check_interval counts batches, and an update may take several batches.
        every = max(1, steps // 4) * content["trainer"].get("accumulate_grad_batches", 1)
        options += ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(every)]
    tried = list(rates or []) if trained else []
    heads = HeadLists({"learning_rate": tried}).labels() if tried else []
    if tried:
        options += ["--model.learning_rate", repr(tried)]
    places = {folder: options}
    if content["data"]["class_path"].endswith("FoldData"):
        places = {folder / f"fold{k}": [*options, "--data.fold", str(k)] for k in range(1, FOLDS + 1)}
    runs = [HeadRun(place, words, trained, heads) for place, words in places.items()]
    return Cell(task, upstream, folder, runs, tried)


def check_corpora(tasks: Sequence[str], data: Path, mini: bool) -> None:
    """Raise `UserError` if a task has no corpus, or one without its splits or labels."""
    for task in tasks:
        name = corpus_name(task, mini)
        if not (data / name / "corpus.json").is_file():
            raise UserError(
                f"{data / name}: the corpus for {task.upper()} is missing; make it with `wavlm prepare` (configs/superb/"
                "README.md says how), or leave the task out with --tasks"
            )
        check_corpus(Corpus.open(data / name), configuration(task, mini))


def check_corpus(corpus: Corpus, content: dict[str, Any]) -> None:
    """Refuse a corpus without the splits or the labels that the configuration of a task needs."""
    named = content["data"]["init_args"]
    if content["data"]["class_path"].endswith(".TaskData"):
        trained = "learning_rate" in content["model"]["init_args"]
        for name in ("train", "valid", "test") if trained else ("test",):
            for part in named.get(f"{name}_split", name).split("+"):
                if part not in corpus.splits:
                    raise UserError(
                        f"{corpus.directory}: no split {part!r}, which data.{name}_split names; it has "
                        f"{', '.join(corpus.splits)}"
                    )
    head = import_by_path(content["model"]["class_path"])(Fbank())
    head.check_labels(head.read_labels(corpus))


def check_tasks(tasks: Sequence[str] | None) -> list[str]:
    """The requested tasks in the order in which they are run; all by default."""
    for task in tasks or []:
        if task.lower() not in COST:
            hint = nearest(task.lower(), COST)
            raise UserError(f"--tasks: {task!r} is not one of SUPERB's tasks ({', '.join(COST)}){hint}")
    return [task for task in COST if tasks is None or task in {t.lower() for t in tasks}]


def _word(value: Any) -> str:
    # PyYAML puts an end-of-document mark behind a bare scalar.
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
