"""Examples of answers that are audio, which `wavlm test` leaves in the run folder for the report."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.metrics.enhancement import UNPROCESSED
from wavlm_lightning.reports.examples import MOST, Example, sound, write_examples
from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.base import PERCENT
from wavlm_lightning.tasks.scored_utterances import alone, metric_of_this_process


class KeepExamples(pl.Callback):
    """Keeps a few utterances of a test whose answers people can hear, see `Task.playable` and `reports.examples`.

    They are the first of batches that are spread evenly over the test, so that long and short ones are among them, with the
    answers that were scored.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: list[Example] = []

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.kept = []

    def on_test_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        if not self._wanted(trainer, pl_module) or len(self.kept) == MOST:
            return
        batches = sum(trainer.num_test_batches)
        # Batch 0, and those a third and two thirds through; a test of one batch gives all from it.
        places = [0] if not math.isfinite(batches) else [int(batches) * part // MOST for part in range(MOST)]
        if (count := places.count(batch_idx)) and pl_module.answered is not None:
            # What was scored: a forward pass on this process alone would wait for the weights of the others.
            with torch.no_grad(), trainer.precision_plugin.forward_context():
                self.kept += examples(pl_module, batch, count, *pl_module.answered)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._wanted(trainer, pl_module):
            write_examples(self.folder, self.kept)

    @staticmethod
    def _wanted(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
        return trainer.is_global_zero and not trainer.fast_dev_run and bool(getattr(module, "answer_sounds", ()))


def examples(task: Task, batch: TaskBatch, count: int, answered: Tensor, valid: Tensor) -> list[Example]:
    """The first `count` utterances of a batch as examples, with the measures of each alone.

    Args:
        task: that was asked.
        batch: as it was heard.
        count: at most this many.
        answered: its answers, a row for each utterance.
        valid: frames or samples of each.
    """
    found = []
    for row, key in enumerate(batch.keys[:count]):
        one = alone(batch, row)
        outputs, lengths = answered[row : row + 1], valid[row : row + 1]
        metric = metric_of_this_process(task, outputs.device)
        task.update_metric(metric, outputs, lengths, one)
        values = metric.compute()
        named = values if isinstance(values, dict) else {task.metric: values}
        before = {
            name.removeprefix(UNPROCESSED): value for name, value in named.items() if name.startswith(UNPROCESSED)
        }
        (sounds,) = task.playable(outputs, lengths, one)
        cut = {name: sound(_plain(waveform)) for name, waveform in sounds.items()}
        figures = {name: _figures(task, after) for name, after in task.figures_of_answers(metric).items()}
        if before:
            figures[next(iter(sounds))] = _figures(task, before)
        found.append(Example(key, cut, figures, task.answer_sounds))
    return found


def _plain(waveform: Tensor) -> np.ndarray:
    return waveform.float().cpu().numpy()


def _figures(task: Task, values: Mapping[str, Tensor | float]) -> str:
    """Such as "SI-SDR 9.3 dB, STOI 87 %", without what has no figure."""
    texts = []
    for name, value in values.items():
        if not math.isfinite(value):
            continue
        unit = task.units.get(name, PERCENT)
        texts.append(f"{metric_title(name)} {float(value) * unit.scale:.{unit.decimals}f} {unit.name}".strip())
    return ", ".join(texts)
