"""Examples of answers that are audio, which `wavlm test` leaves in the run folder for the report."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.metrics.enhancement import UNPROCESSED
from wavlm_lightning.reports.examples import MOST, Example, sound, write_examples
from wavlm_lightning.reports.tables import metric_title
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.base import PERCENT
from wavlm_lightning.tasks.scored_utterances import metric_of_this_process


class KeepExamples(pl.Callback):
    """Keeps a few utterances of a test whose answers are waveforms: input, answer and reference, see `reports.examples`.

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
                self.kept += examples(pl_module, first_rows(batch, count), *pl_module.answered)

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if self._wanted(trainer, pl_module):
            write_examples(self.folder, self.kept)

    @staticmethod
    def _wanted(trainer: pl.Trainer, module: pl.LightningModule) -> bool:
        usable = trainer.is_global_zero and not trainer.fast_dev_run
        asked = getattr(module, "answer", None), len(getattr(module, "target_audio", ()))
        return usable and asked == ("waveform", 1)  # several targets have no one reference to play


def first_rows(batch: TaskBatch, count: int) -> TaskBatch:
    """The first utterances of a batch of audio, without the padding that only later ones need."""
    assert isinstance(batch.inputs, Waveforms)
    lengths = batch.inputs.lengths[:count]
    longest = int(lengths.max())
    inputs = Waveforms(batch.inputs.audio[:count, :longest], lengths)
    targets = Targets(batch.targets.values[:count, :longest], batch.targets.lengths[:count])
    return replace(batch, keys=batch.keys[:count], inputs=inputs, targets=targets)


def examples(task: Task, batch: TaskBatch, answered: Tensor, valid: Tensor) -> list[Example]:
    """The utterances of a batch as examples, with the measures of each alone.

    Args:
        task: that was asked.
        batch: utterances without the padding of later ones.
        answered: its answers `(rows, samples)`, those of this batch first.
        valid: samples of each.
    """
    assert isinstance(batch.inputs, Waveforms)
    rows, longest = batch.inputs.audio.shape
    outputs, lengths = answered[:rows, :longest], valid[:rows]
    found = []
    for row, key in enumerate(batch.keys):
        alone = slice(row, row + 1)
        inputs = Waveforms(batch.inputs.audio[alone], batch.inputs.lengths[alone])
        targets = Targets(batch.targets.values[alone], batch.targets.lengths[alone])
        metric = metric_of_this_process(task, outputs.device)
        task.update_metric(
            metric, outputs[alone], lengths[alone], replace(batch, keys=(key,), inputs=inputs, targets=targets)
        )
        values = metric.compute()
        named = values if isinstance(values, dict) else {task.metric: values}
        before = {
            name.removeprefix(UNPROCESSED): value for name, value in named.items() if name.startswith(UNPROCESSED)
        }
        after = {name: value for name, value in named.items() if "/" not in name}
        sounds = {
            "input": inputs.audio[0],
            "answer": task.answer_rows(outputs[alone], lengths[alone])[0],
            "reference": targets.values[0],
        }
        cut = {name: sound(_plain(waveform[: int(inputs.lengths[0])])) for name, waveform in sounds.items()}
        found.append(Example(key, cut, {"input": _figures(task, before), "answer": _figures(task, after)}))
    return found


def _plain(waveform: Tensor) -> np.ndarray:
    return waveform.float().cpu().numpy()


def _figures(task: Task, values: dict[str, Tensor]) -> str:
    """Such as "SI-SDR 9.3 dB, STOI 87 %"."""
    texts = []
    for name, value in values.items():
        unit = task.units.get(name, PERCENT)
        texts.append(f"{metric_title(name)} {float(value) * unit.scale:.{unit.decimals}f} {unit.name}".strip())
    return ", ".join(texts)
