"""What a pre-training run knows about itself: its checkpoint, its `config.yaml`, its curves and its corpora."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class RunFacts:
    """The facts; what is not known is empty or None.

    Attributes:
        steps: updates made.
        model: arguments of the module.
        data: arguments of the data.
        trainer: arguments of the trainer.
        codebooks: by label set, size, rate and sha256.
        corpora: the corpus, if it is still what was trained on, and the noise, if there is any.
        split: that was trained on.
        corpus_sha256: of the corpus while training.
        processes: that trained.
        scores: by name, the last validation before this checkpoint: (step, value).
        lightning: version while training.
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
            path: of the checkpoint; in `RUN/checkpoints/` the run's other files are read, too.
            checkpoint: its content.
        """
        folder = path.resolve().parent.parent
        config = folder / "config.yaml"
        content: dict[str, Any] = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
        model, data = ((content.get(name) or {}).get("init_args") or {} for name in ("model", "data"))
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
        """Audio of all processes and micro-steps; the last crops of an epoch may fill less."""
        seconds, times = self.data.get("batch_seconds"), self.trainer.get("accumulate_grad_batches", 1)
        if seconds is None or self.processes is None or not isinstance(times, int):
            return None
        return seconds * times * self.processes


def _layout(checkpoint: Mapping[str, Any]) -> dict[str, Any]:
    """What `ResumableData` has kept; Lightning files it under the name of the class."""
    states = [value for value in checkpoint.values() if isinstance(value, Mapping) and "layout" in value]
    return dict(states[0]["layout"]) if states else {}


def _corpora(data: Mapping[str, Any], trained_on: str | None) -> list[Corpus]:
    """The corpus and the noise; none if the corpus is gone or another one by now."""
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

    files = (folder / "curves").glob("version_*/metrics.csv")
    curves = read_curves(sorted(files, key=lambda path: int(path.parent.name.removeprefix("version_"))))
    scores = {}
    for name, series in curves.series.items():
        # Lightning counts from 0: what is logged at step N came after N + 1 updates (N, between two micro-steps).
        points = [point for point in zip(series.steps, series.values, strict=True) if point[0] < steps]
        if name.startswith("valid/") and points:
            scores[name] = points[-1]
    return scores
