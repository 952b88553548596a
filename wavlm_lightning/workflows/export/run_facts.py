"""Facts of a pre-training run for its model card: from the checkpoint, `config.yaml`, the curves and the corpora."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import curve_files, init_args, read_run_config


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run; unknown ones are empty or None."""

    steps: int  # number of updates
    model: dict[str, Any]  # arguments of the module; likewise data and trainer
    data: dict[str, Any]
    trainer: dict[str, Any]
    codebooks: dict[str, dict[str, Any]]  # label set -> size, rate and sha256
    corpora: list[Corpus]  # the corpus, if it is unchanged since training, and the noise corpus, if there is one
    split: str | None  # of training
    corpus_sha256: str | None  # during training
    processes: int | None  # of training
    scores: dict[str, tuple[int, float]]  # metric -> (step, value) of the last validation before this checkpoint
    lightning: str | None  # version during training

    @classmethod
    def read(cls, path: Path, checkpoint: Mapping[str, Any]) -> RunFacts:
        """Collect them from a checkpoint's content and, if its path is in `RUN/checkpoints/`, from other files of the run."""
        folder = path.resolve().parent.parent
        content = read_run_config(folder)
        model, data = init_args(content, "model"), init_args(content, "data")
        # State of `ResumableData`, which Lightning stores under the qualified name of the class.
        states = [value for value in checkpoint.values() if isinstance(value, Mapping) and "layout" in value]
        layout: Mapping[str, Any] = states[0]["layout"] if states else {}
        corpus, noise = (open_corpus(data.get(name)) for name in ("corpus", "noise_corpus"))
        known = corpus is not None and corpus.sha256 == layout.get("corpus")
        return cls(
            steps=checkpoint["global_step"],
            model=model,
            data=data,
            trainer=content.get("trainer") or {},
            codebooks=checkpoint.get("codebooks") or {},
            corpora=[each for each in (corpus, noise) if each is not None] if known else [],
            split=data.get("train_split"),
            corpus_sha256=layout.get("corpus"),
            processes=layout.get("world_size"),
            scores=_scores(folder, checkpoint["global_step"]),
            lightning=checkpoint.get("pytorch-lightning_version"),
        )

    @property
    def seconds_per_update(self) -> float | None:
        """Audio per update, over all processes and micro-steps; the last batches of an epoch may hold less."""
        seconds, times = self.data.get("batch_seconds"), self.trainer.get("accumulate_grad_batches", 1)
        if seconds is None or self.processes is None or not isinstance(times, int):
            return None
        return seconds * times * self.processes


def open_corpus(path: Any) -> Corpus | None:
    """The corpus that a run names, if it is still there."""
    try:
        return Corpus.open(path) if isinstance(path, str) and path else None  # a mixture is a list
    except UserError:
        return None


def _scores(folder: Path, steps: int) -> dict[str, tuple[int, float]]:
    from wavlm_lightning.reports.curves import read_curves

    curves = read_curves(curve_files(folder))
    scores = {}
    for name, series in curves.series.items():
        # Lightning counts from 0: values logged at step N come after N + 1 updates (N, between two micro-steps).
        points = [point for point in zip(series.steps, series.values, strict=True) if point[0] < steps]
        if name.startswith("valid/") and points:
            scores[name] = points[-1]
    return scores
