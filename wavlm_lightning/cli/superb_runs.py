"""What `wavlm superb` has to run: every task on every upstream, fold and learning rate, cheapest first."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.cli.configs import configs_folder
from wavlm_lightning.cli.head_runs import HeadRun
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.errors import UserError
from wavlm_lightning.upstreams.specs import resolve

COST: dict[str, float] = {
    "ks": 1,
    "ic": 1,
    "sid": 1,
    "er": 1,
    "pr": 3,
    "qbe": 3,
    "sd": 6,
    "sv": 8,
    "sf": 10,
    "asr": 12,
}
"""What a run of each task costs relative to KS, in the order they are run; only the estimate of the time left reads it."""

POOLED = ("ks", "ic", "sid", "er")
"""Tasks whose head averages over time: CMVN would make all utterances alike (`superb.md`, section 7)."""


@dataclass(frozen=True)
class UpstreamSpec:
    """An upstream as the command line names it.

    Attributes:
        spec: as typed.
        class_path: its class.
        init_args: its arguments.
    """

    spec: str
    class_path: str
    init_args: dict[str, Any]

    @classmethod
    def parse(cls, spec: str) -> UpstreamSpec:
        """Read what `wavlm_lightning.upstreams.specs` understands."""
        return cls(spec, *resolve(spec))

    @property
    def folder(self) -> str:
        """A folder name that tells it from others."""
        return re.sub(r"[^A-Za-z0-9._+-]+", "-", self.spec).strip("-.")

    def options(self, task: str) -> list[str]:
        """What `wavlm fit` must be told to use it."""
        arguments = dict(self.init_args)
        if task in POOLED and self.spec.split("=")[-1].strip() in ("fbank", "mfcc"):
            arguments["cmvn"] = False
        options = ["--model.upstream", self.class_path]
        for name, value in arguments.items():
            options += [f"--model.upstream.{name}", _word(value)]
        return options


@dataclass(frozen=True)
class Cell:
    """A task on an upstream: one figure of the table.

    Attributes:
        task: name of its YAML.
        upstream: what features it reads.
        folder: where its runs and its card go.
        runs: by learning rate (None: that of the YAML), the run, or the run of each fold.
    """

    task: str
    upstream: UpstreamSpec
    folder: Path
    runs: dict[float | None, list[HeadRun]] = field(default_factory=dict)

    def all_runs(self) -> list[HeadRun]:
        """Of all rates and folds."""
        return [run for runs in self.runs.values() for run in runs]


def available(mini: bool) -> list[str]:
    """Tasks that have a configuration, cheapest first."""
    return [task for task in COST if (configs_folder().parent / config_name(task, mini)).is_file()]


def config_name(task: str, mini: bool) -> str:
    """The YAML of a task, as `-c` takes it."""
    return f"configs/superb/{'mini/' if mini else ''}{task}.yaml"


def official_rates(task: str) -> list[float]:
    """The learning rates that SUPERB's authors tried, from the task's sweep file."""
    content = yaml.safe_load((configs_folder() / "sweeps" / "superb" / f"{task}.yaml").read_text())
    return [float(rate) for rate in content["parameters"]["model.learning_rate"]["values"]]


def plan_cell(
    task: str,
    upstream: UpstreamSpec,
    data: Path,
    out: Path,
    *,
    mini: bool,
    rates: list[float] | None,
    extra: list[str],
) -> Cell:
    """All runs of a task on an upstream.

    Args:
        task: name of its YAML.
        upstream: what to score.
        data: folder of corpora; the YAML says which of them.
        out: folder of this upstream.
        mini: take the YAML for the mini corpus.
        rates: learning rates to try; the YAML's if None.
        extra: further options for every run.

    Raises:
        UserError: the corpus is missing.
    """
    content = yaml.safe_load((configs_folder().parent / config_name(task, mini)).read_text())
    corpus = data / Path(content["data"]["init_args"]["corpus"]).name
    folder = out / task
    options = ["-c", config_name(task, mini), "--data.corpus", str(corpus)]
    if content["data"]["init_args"].get("cache"):
        options += ["--data.cache", str(out.parent / "cache")]
    options += [*upstream.options(task), *extra]
    trained = "learning_rate" in content["model"]["init_args"]
    folds = 1
    if content["data"]["class_path"].endswith("FoldData"):
        folds = len(Corpus.open(corpus).splits)
    else:
        Corpus.open(corpus)
    cell = Cell(task, upstream, folder)
    tried: list[float | None] = [*rates] if rates and trained else [None]
    for rate in tried:
        place = folder if rate is None else folder / f"learning-rate-{rate:g}"
        chosen = [] if rate is None else ["--model.learning_rate", f"{rate:g}"]
        if folds == 1:
            cell.runs[rate] = [HeadRun(place, [*options, *chosen], trained)]
        else:
            cell.runs[rate] = [
                HeadRun(place / f"fold{fold}", [*options, *chosen, "--data.fold", str(fold)])
                for fold in range(1, folds + 1)
            ]
    return cell


def check_tasks(tasks: list[str] | None, mini: bool) -> list[str]:
    """The tasks asked for, cheapest first; all by default.

    Raises:
        UserError: there is no such task.
    """
    known = available(mini)
    for task in tasks or []:
        if task.lower() not in known:
            raise UserError(f"--tasks: {task!r} is none of SUPERB's tasks ({', '.join(known)})")
    return [task for task in known if tasks is None or task in {t.lower() for t in tasks}]


def _word(value: Any) -> str:
    return yaml.safe_dump(value, default_flow_style=True).removesuffix("\n...\n").strip()
