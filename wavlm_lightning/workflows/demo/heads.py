"""The demo's heads: three tasks on three frozen upstreams, two at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wavlm_lightning.workflows.fit.head_runs import HeadRun

TASKS = ("pr", "ks", "sid")
UPSTREAMS: dict[str, str] = {"pre-trained": "pretrained", "random weights": "random", "FBANK": "fbank"}
"""What the report calls an upstream, and what its folders are called."""

LEARNING_RATES: dict[tuple[str, str], float] = {
    # Best on the validation split; the grid and its figures: experiments/demo_learning_rates.
    ("pr", "random weights"): 1.6e-2,
    ("pr", "FBANK"): 1.6e-2,
    ("sid", "random weights"): 1e-3,
    ("sid", "FBANK"): 1e-3,
}
"""Where the rate of the task's YAML is not the best for an upstream (SUPERB tunes the rate per upstream, and only that)."""


@dataclass(frozen=True)
class Head:
    """One run: a task on an upstream.

    Attributes:
        task: name of its YAML in `configs/superb/mini`.
        upstream: a key of `UPSTREAMS`.
        out: the demo's folder.
        steps: updates; those of the YAML if None.
    """

    task: str
    upstream: str
    out: Path
    steps: int | None = None

    @property
    def folder(self) -> Path:
        """Its run folder."""
        return self.out / "heads" / f"{self.task}-{UPSTREAMS[self.upstream]}"

    def options(self) -> list[str]:
        """What follows `wavlm fit` or `wavlm test`, the run folder apart."""
        options = ["-c", f"configs/superb/mini/{self.task}.yaml"]
        if self.upstream == "FBANK":
            # CMVN makes all utterances alike after mean pooling (superb.md, section 7), so it is for PR only.
            cmvn = str(self.task == "pr").lower()
            options += ["--model.upstream", "wavlm_lightning.upstreams.Fbank", "--model.upstream.cmvn", cmvn]
        else:
            source = "tiny" if self.upstream == "random weights" else str(self.out / "pretrain")
            options += ["--model.upstream.source", source, "--model.upstream.label", self.upstream]
        if (self.task, self.upstream) in LEARNING_RATES:
            options += ["--model.learning_rate", str(LEARNING_RATES[self.task, self.upstream])]
        options += ["--data.corpus", str(self.out / "corpus" / self.task), "--data.cache", str(self.out / "cache")]
        if self.steps is not None:
            every = max(1, self.steps // 4)
            options += ["--trainer.max_steps", str(self.steps), "--trainer.val_check_interval", str(every)]
        return options

    def run(self) -> HeadRun:
        """The run to make."""
        return HeadRun(self.folder, self.options())


def all_heads(out: Path, steps: int | None = None) -> list[Head]:
    """Every task on every upstream, the slowest first so that two processes end together."""
    return [
        Head(task, upstream, out, steps) for task in TASKS for upstream in ("FBANK", "random weights", "pre-trained")
    ]
