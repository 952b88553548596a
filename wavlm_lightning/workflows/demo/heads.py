"""Heads of the demo: three tasks on three frozen upstreams, and their learning rates."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wavlm_lightning.workflows.fit.head_runs import HeadRun

TASKS = ("pr", "ks", "sid")
# Label of an upstream in the report -> its part of folder names.
UPSTREAMS = {"pre-trained": "pretrained", "random weights": "random", "FBANK": "fbank"}
# Rates other than the task's YAML: SUPERB tunes the rate per upstream and task, and nothing else. They are the best on
# validation over three seeds; the grid and its figures are in experiments/demo_learning_rates.
LEARNING_RATES = {
    ("pr", "pre-trained"): 4e-3,
    ("pr", "random weights"): 4e-3,
    ("ks", "pre-trained"): 3e-3,
    ("ks", "random weights"): 3e-3,
    ("sid", "pre-trained"): 1e-3,
    ("sid", "FBANK"): 1e-3,
}


@dataclass(frozen=True)
class Head:
    """A task on an upstream."""

    task: str  # name of its YAML in `configs/superb/mini`
    upstream: str  # a key of `UPSTREAMS`
    out: Path  # the demo's folder
    steps: int | None = None  # updates; those of the YAML if None
    # Preset and changed fields of the pre-trained encoder: that with random weights is of the same shape.
    preset: str = "tiny"
    overrides: Mapping[str, Any] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.out / "heads" / f"{self.task}-{UPSTREAMS[self.upstream]}"

    def options(self) -> list[str]:
        """Options of `wavlm fit` and `wavlm test`, without the run folder."""
        options = ["-c", f"configs/superb/mini/{self.task}.yaml"]
        if self.upstream == "FBANK":
            # After CMVN the mean over time is the same for every utterance: KS and SID, which pool, cannot use it.
            cmvn = str(self.task == "pr").lower()
            options += ["--model.upstream", "wavlm_lightning.upstreams.Fbank", "--model.upstream.cmvn", cmvn]
        else:
            random = self.upstream == "random weights"
            source = f"random:{self.preset}" if random else str(self.out / "pretrain")
            options += ["--model.upstream.overrides", json.dumps(self.overrides)] if random and self.overrides else []
            options += ["--model.upstream.source", source, "--model.upstream.label", self.upstream]
        if (self.task, self.upstream) in LEARNING_RATES:
            options += ["--model.learning_rate", str(LEARNING_RATES[self.task, self.upstream])]
        options += ["--data.corpus", str(self.out / "corpus" / self.task), "--data.cache", str(self.out / "cache")]
        if self.steps is not None:
            every = max(1, self.steps // 4)
            options += ["--trainer.max_steps", str(self.steps), "--trainer.val_check_interval", str(every)]
        return options

    def run(self) -> HeadRun:
        return HeadRun(self.folder, self.options())


def all_heads(
    out: Path, steps: int | None = None, preset: str = "tiny", overrides: Mapping[str, Any] | None = None
) -> list[Head]:
    """Every task on every upstream, the slowest first, so that two processes end at about the same time."""
    upstreams = "FBANK", "random weights", "pre-trained"
    return [Head(task, upstream, out, steps, preset, overrides or {}) for task in TASKS for upstream in upstreams]
