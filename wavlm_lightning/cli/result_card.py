"""Writes the result card of a task after its test."""

from __future__ import annotations

import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

import wavlm_lightning
from wavlm_lightning.reports.cards import MetricValue, ResultCard, Selection
from wavlm_lightning.tasks import Task


class WriteResultCard(pl.Callback):
    """`card.json` in the run folder at the end of `wavlm test`.

    Args:
        folder: the run folder.
        command: what the user typed.
    """

    def __init__(self, folder: Path, command: str) -> None:
        self.folder, self.command = folder, command
        self.started = 0.0

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Remember the time."""
        self.started = time.perf_counter()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the card, on rank 0, if the model is a task and was not just a trial of one batch."""
        if not isinstance(pl_module, Task) or not trainer.is_global_zero or trainer.fast_dev_run:
            return
        data: Any = trainer.datamodule
        part = data.opened["test"]
        trained = pl_module.trained
        selection: Selection | None = trained.get("selection")
        if selection is not None:
            names = data.splits["valid"], data.splits["test"]
            selection = {**selection, "split": pl_module.selection_split(*names)}
        metrics: dict[str, MetricValue] = {}
        for name, better in {pl_module.metric: pl_module.better, **pl_module.others}.items():
            value = round(float(trainer.callback_metrics[f"test/{name}"]) * 100, 4)
            metrics[name] = {"value": value, "unit": "%", "better": better}
        if pl_module.chance is not None:
            metrics[pl_module.metric]["chance"] = 100 * pl_module.chance
        card = ResultCard(
            task=pl_module.name,
            metrics=metrics,
            headline=pl_module.metric,
            corpus={
                "name": data.corpus.name,
                "path": str(data.path),
                "split": part.name,
                "utterances": len(part),
                "seconds": round(part.seconds, 2),
            },
            upstream=pl_module.upstream.describe(),  # type: ignore[arg-type]
            learning_rate=trained.get("learning_rate", pl_module.learning_rate),
            seed=trained.get("seed", pl_module.seed),
            steps=trained.get("steps", 0),
            best_step=trained.get("best_step", 0),
            selection=selection,
            protocol=pl_module.protocol,
            details=pl_module.details,
            trainable_parameters=sum(p.numel() for p in pl_module.parameters() if p.requires_grad),
            layer_weights=pl_module.weighted_sum.weights(),
            runtime_seconds=round(time.perf_counter() - self.started, 2),
            command=self.command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={
                "wavlm_lightning": wavlm_lightning.__version__,
                "torch": torch.__version__,
                "lightning": pl.__version__,
                "python": platform.python_version(),
            },
        )
        card.write(self.folder)
