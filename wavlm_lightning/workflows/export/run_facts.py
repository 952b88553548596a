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
    """Facts of a run; unknown ones are empty or None.

    Attributes:
        steps: number of updates.
        model: arguments of the module.
        data: arguments of the data.
        trainer: arguments of the trainer.
        codebooks: label set -> size, rate and sha256.
        corpora: the corpus, if it is unchanged since training, and the noise corpus, if there is one.
        split: the training split.
        corpus_sha256: hash of the corpus during training.
        processes: number of training processes.
        scores: metric -> (step, value) of the last validation before this checkpoint.
        lightning: version of Lightning during training.
    """

    steps: int
    model: dict[str, Any]
    data: dict[str, Any]
    trainer: dict[str, Any]
    codebooks: dict[str, dict[str, Any]]
    corpora: list[Corpus]
    split: str | None
    corpus_sha256: str | None
    processes: int | None
    scores: dict[str, tuple[int, float]]
    lightning: str | None

    @classmethod
    def read(cls, path: Path, checkpoint: Mapping[str, Any]) -> RunFacts:
        """Collect them.

        Args:
            path: path of the checkpoint; if it is in `RUN/checkpoints/`, the other files of the run are read, too.
            checkpoint: content of the checkpoint.
        """
        folder = path.resolve().parent.parent
        content = read_run_config(folder)
        model, data = init_args(content, "model"), init_args(content, "data")
        layout = _layout(checkpoint)
        corpora = _corpora(data, layout.get("corpus"))
        return cls(
            steps=checkpoint["global_step"],
            model=model,
            data=data,
            trainer=content.get("trainer") or {},
            codebooks=checkpoint.get("codebooks") or {},
            corpora=corpora,
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


def _layout(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """State of `ResumableData`, which Lightning stores under the qualified name of the class."""
    states = [value for value in checkpoint.values() if isinstance(value, Mapping) and "layout" in value]
    return dict(states[0]["layout"]) if states else {}


def _corpora(data: Mapping[str, Any], trained_on: str | None) -> list[Corpus]:
    """The corpus and the noise corpus; empty if the corpus is missing or has changed."""
    corpus, noise = (_open(data.get(name)) for name in ("corpus", "noise_corpus"))
    if corpus is None or corpus.sha256 != trained_on:
        return []
    return [corpus] if noise is None else [corpus, noise]


def _open(path: Any) -> Corpus | None:
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
