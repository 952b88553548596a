"""Plan the runs of a suite: every task on every upstream, with its folds and learning rates, cheapest task first."""

from __future__ import annotations

import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.contract import Served
from wavlm_lightning.upstreams import Fbank
from wavlm_lightning.upstreams.specs import resolve
from wavlm_lightning.workflows.fit.head_runs import HeadRun
from wavlm_lightning.workflows.fit.joint_heads import HeadLists
from wavlm_lightning.workflows.superb.suites import (
    config_name,
    configuration,
    corpus_name,
    cost,
    head_class,
    inside,
    replaced,
    task_name,
)

FOLDS = 5
SPECTRAL = ("fbank", "mfcc")  # of which a mean over time must not be taken after CMVN


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
        return self.init_args.get("label") or {"fbank": "FBANK", "mfcc": "MFCC", "stft": "STFT"}.get(
            self.spec, self.spec
        )

    @property
    def folder(self) -> str:
        """Name of its folder, made of the label if there is one, else of the word on the command line."""
        name = self.label if "=" in self.spec else self.spec
        slug = re.sub(r"[^A-Za-z0-9._+-]+", "-", name).strip("-.")
        return slug or hashlib.sha256(name.encode()).hexdigest()[:12]

    def options(self, task: str, mini: bool = True) -> list[str]:
        """Options of `wavlm fit` that choose this upstream for a task."""
        arguments = dict(self.init_args)
        if self.spec.split("=")[-1].strip() in SPECTRAL and head_class(task, mini).cache_level == "utterance":
            # The head averages over time, and after CMVN that average is the same for all utterances (s3prl issue 316).
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
    alone: bool = False  # whether each learning rate has runs of its own, rate by rate
    cost: float = 1.0  # relative to KS
    starts_from: tuple[Path, ...] = ()  # the runs of other tasks that its options name

    def results(self) -> dict[float | None, list[Path]]:
        """Learning rate (None: that of the YAML) -> the folders with a card, one per fold."""
        if not self.rates:
            return {None: [run.folder for run in self.runs]}
        if self.alone:
            folds = len(self.runs) // len(self.rates)
            return {rate: [run.folder for run in self.runs[n * folds :][:folds]] for n, rate in enumerate(self.rates)}
        return {rate: [run.results[place] for run in self.runs] for place, rate in enumerate(self.rates)}


def plan_cell(
    task: str,
    upstream: UpstreamSpec,
    data: Path,
    out: Path,
    *,
    mini: bool,
    rates: Sequence[float] | None,
    steps: int | None,
    corpus: Path | None = None,
    runs: Mapping[str, Path] | None = None,
) -> Cell:
    """Plan all runs of a task on an upstream.

    Args:
        task: as in `suites.check_tasks`.
        upstream: on which its head is trained.
        data: the folder of corpora.
        out: the folder of all runs.
        mini: whether the YAML for the mini corpus counts.
        rates: learning rates that replace the YAML's.
        steps: updates that replace the YAML's.
        corpus: the task's own corpus, by default that of the YAML's name in `data`.
        runs: task -> the folder of its run on this upstream, for the tasks whose runs the YAML names.
    """
    content, folder = configuration(task, mini), out / upstream.folder / task_name(task)
    corpus = corpus or data / corpus_name(task, mini)
    options = ["-c", config_name(task, mini), "--data.corpus", str(corpus)]
    if content["data"]["init_args"].get("cache"):
        options += ["--data.cache", str(out / "cache")]
    options += upstream.options(task, mini)
    options += _moved_paths(content, data, _homes(runs or {}, mini))
    trained = "learning_rate" in content["model"]["init_args"]
    if steps is not None and trained:
        # val_check_interval counts batches, and an update may take several batches.
        every = max(1, steps // 4) * content["trainer"].get("accumulate_grad_batches", 1)
        options += ["--trainer.max_steps", str(steps), "--trainer.val_check_interval", str(every)]
    tried = list(rates or []) if trained else []
    price, begins = cost(task, mini), tuple((runs or {}).values())
    folds = content["data"]["class_path"].endswith("FoldData")
    heads = HeadLists({"learning_rate": tried}).labels() if tried else []
    alone = bool(tried) and _trains_upstream(content)  # which several heads cannot share

    def runs_at(rate: float | list[float] | None, inside_run: str = "", heads: Sequence[str] = ()) -> list[HeadRun]:
        words = options if rate is None else [*options, "--model.learning_rate", repr(rate)]
        places = {folder / inside_run: words}
        if folds:
            places = {folder / f"fold{k}" / inside_run: [*words, "--data.fold", str(k)] for k in range(1, FOLDS + 1)}
        return [HeadRun(place, some, trained, heads) for place, some in places.items()]

    if alone:
        planned = [run for rate, head in zip(tried, heads, strict=True) for run in runs_at(rate, head)]
    else:
        planned = runs_at(tried or None, heads=heads)
    return Cell(task, upstream, folder, planned, tried, alone, price, begins)


def _homes(runs: Mapping[str, Path], mini: bool) -> dict[str, Path]:
    return {str(configuration(task, mini)["trainer"]["default_root_dir"]): folder for task, folder in runs.items()}


def _moved_paths(content: dict[str, Any], data: Path, runs: Mapping[str, Path]) -> list[str]:
    """Options for arguments that name further corpora (a key that ends in `corpus`), or runs of other tasks.

    `runs`: folder as the YAML names it -> where that run is.
    """

    def change(key: str, text: str) -> str:
        for home, folder in runs.items():
            if (rest := inside(text, home)) is not None:
                return f"{folder}{rest}"
        return str(data / Path(text).name) if key.endswith("corpus") else text

    options = []
    for section, apart in (("data", "corpus"), ("model", "upstream")):
        for name, value in content[section]["init_args"].items():
            new = replaced(value, change, name)
            # A corpus is named even where it stays, so that the run's record knows its content.
            if name != apart and (new != value or (name.endswith("corpus") and value)):
                options += [f"--{section}.{name}", _word(new)]
    return options


def _trains_upstream(content: dict[str, Any]) -> bool:
    if content["model"]["init_args"].get("front_end"):
        return True
    upstream = content["model"]["init_args"].get("upstream") or {}
    return upstream.get("init_args", {}).get("frozen") is False


def check_corpora(tasks: Sequence[str], data: Path, mini: bool) -> None:
    """Raise `UserError` if a task has no corpus, or one without its splits or labels."""
    for task in tasks:
        name = corpus_name(task, mini)
        if not (data / name / "corpus.json").is_file():
            suite = Path(config_name(task, mini)).parts[1] if not task.endswith(".yaml") else "superb"
            raise UserError(
                f"{data / name}: the corpus for {task_name(task).upper()} is missing; make it with `wavlm prepare` "
                f"(configs/{suite}/README.md says how), or leave the task out with --tasks"
            )
        check_corpus(Corpus.open(data / name), configuration(task, mini), head_class(task, mini))


def check_corpus(corpus: Corpus, content: dict[str, Any], kind: Any) -> None:
    """Refuse a corpus without the splits or the labels that the configuration of a task needs."""
    named = content["data"]["init_args"]
    splits = {name: named.get(f"{name}_split", name) for name in ("train", "valid", "test")}
    if content["data"]["class_path"].rpartition(".")[2] == "TaskData":
        trained = "learning_rate" in content["model"]["init_args"]
        for name in splits if trained else ("test",):
            for part in splits[name].split("+"):
                if part not in corpus.splits:
                    raise UserError(
                        f"{corpus.directory}: no split {part!r}, which data.{name}_split names; it has "
                        f"{', '.join(corpus.splits)}"
                    )
    head = kind(Fbank(), **_needed(kind, content["model"]["init_args"]))
    head.data = Served(corpus, splits=splits)  # labels of a text are those of the training split
    head.check_labels(head.read_labels(corpus))


def _needed(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments without which a head cannot be made, beside its upstream. Others may fit the task's own upstream alone."""
    parameters = inspect.signature(kind).parameters.values()
    names = {each.name for each in parameters if each.default is each.empty and each.kind is not each.VAR_KEYWORD}
    # `Task` needs a rate, which a class of the user's may pass on among its `**settings`.
    return {name: value for name, value in given.items() if name in {*names, "learning_rate"} - {"upstream"}}


def _word(value: Any) -> str:
    # PyYAML puts an end-of-document mark behind a bare scalar.
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
