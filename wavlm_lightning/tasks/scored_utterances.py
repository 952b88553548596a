"""What each utterance of a test adds to the headline metric, collected over batches and processes.

A task says it in `Task.utterance_scores`. For one that does not, a fresh metric scores each utterance alone, which is right
if the headline is a mean over utterances. Sums that do not give the headline are not kept, and the card says why.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from lightning.pytorch.utilities.seed import isolate_rng
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.text import CharErrorRate, WordErrorRate

from wavlm_lightning.data.batch import Targets, TaskBatch, Waveforms
from wavlm_lightning.encoder import Layers
from wavlm_lightning.reports.utterances import ScoredTrials, UtteranceResults, check_results
from wavlm_lightning.system.reading import reason_of

T = TypeVar("T")


def of_all_processes(rows: dict[str, T]) -> dict[str, T]:
    """Rows of a test by key, those of all processes; one that two processes have is kept once."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return rows
    parts: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, rows)
    return {key: row for part in parts for key, row in part.items()}


def headline_of(metric: Any, name: str) -> Any:
    """The metric itself, or the member of that name of a collection."""
    return metric[name] if isinstance(metric, MetricCollection) else metric


def contribution(metric: Any, name: str) -> tuple[float, float]:
    """Errors and count of the utterances that a metric has seen: edits and length, or else its value and 1."""
    if isinstance(metric, WordErrorRate | CharErrorRate):
        return float(metric.errors), float(metric.total)
    value = metric.compute()
    return float(value[name] if isinstance(value, dict) else value), 1.0


def metric_of_this_process(task: Any, device: torch.device) -> Any:
    """A fresh metric of a task whose value is that of this process alone: others are at other utterances."""
    metric = task.build_metric().to(device)
    for part in metric.modules():
        if isinstance(part, Metric):
            part.distributed_available_fn = lambda: False
    return metric


def alone(batch: TaskBatch, row: int) -> TaskBatch:
    """The batch of one utterance, with the padding that it has."""
    rows, inputs, targets = slice(row, row + 1), batch.inputs, batch.targets
    if isinstance(inputs, Layers):
        inputs = replace(inputs, hidden=inputs.hidden[:, rows], lengths=inputs.lengths[rows])
    elif isinstance(inputs, Waveforms):
        inputs = Waveforms(inputs.audio[rows], inputs.lengths[rows])
    else:
        raise TypeError(f"inputs are {type(inputs).__name__}")
    extra = {name: Waveforms(audio.audio[rows], audio.lengths[rows]) for name, audio in batch.extra.items()}
    wanted = Targets(targets.values[rows], targets.lengths[rows])
    return replace(batch, keys=batch.keys[rows], inputs=inputs, targets=wanted, extra=extra)


def _speakers(keys: Sequence[str], names: Sequence[Any]) -> tuple[str, ...] | None:
    """Who speaks in each utterance; one without a name, such as noise among words, stands for itself."""
    if all(name is None for name in names):
        return None
    return tuple(f"({key})" if name is None else str(name) for key, name in zip(keys, names, strict=True))


@dataclass
class ScoredUtterances:
    """The scores of a test so far.

    Attributes:
        rows: key -> one or more errors, of which `column` is taken, and the count.
        what: a row is: `utterances`, `recordings` or `queries`.
        column: of the error that counts, where the test chooses among several settings.
        trials: of verification, whose `keys` are those of the utterances.
        missing: why there are no results, as the end of a sentence.
        complete: every process already has all rows.
    """

    rows: dict[str, tuple[float, ...]] = field(default_factory=dict)
    what: str = "utterances"
    column: int = 0
    keys: tuple[str, ...] = ()
    trials: ScoredTrials | None = None
    missing: str = ""
    complete: bool = False

    def add(self, task: Any, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> None:
        """Score the utterances of a test batch once more, one by one; the test itself goes on whatever happens."""
        if self.missing:
            return
        try:
            # A metric that draws at random draws the same for the headline as without these scores.
            with isolate_rng(include_cuda=outputs.is_cuda):
                scores = task.utterance_scores(outputs, lengths, batch)
                if scores is None:
                    scores = self._each_alone(task, outputs, lengths, batch)
            rows = [tuple(map(float, row)) for row in scores]
            if len(rows) != len(batch.keys):
                raise ValueError(f"{len(rows)} scores for {len(batch.keys)} utterances")
        except Exception as error:  # of any task's own metric
            self.missing = f"an utterance cannot be scored alone ({reason_of(error)})"
            return
        self.rows.update(zip(batch.keys, rows, strict=True))

    @staticmethod
    def _each_alone(task: Any, outputs: Tensor, lengths: Tensor, batch: TaskBatch) -> Sequence[tuple[float, float]]:
        metric, scores = metric_of_this_process(task, outputs.device), []
        for row in range(len(batch.keys)):
            metric.reset()
            task.update_metric(metric, outputs[row : row + 1], lengths[row : row + 1], alone(batch, row))
            scores.append(contribution(headline_of(metric, task.metric), task.metric))
        return scores

    def gather(self) -> None:
        """Bring the rows of all processes to each; one that two processes have scored is kept once."""
        if self.complete or not (torch.distributed.is_available() and torch.distributed.is_initialized()):
            return
        parts: list[Any] = [None] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(parts, (self.rows, self.missing))
        self.rows = {key: row for rows, _ in parts for key, row in rows.items()}
        self.missing = next((missing for _, missing in parts if missing), "")

    def results(self, task: Any, headline: float) -> UtteranceResults | None:
        """The results, in the order of the split; None, and `missing` says why, if they do not give the headline figure."""
        if not self.missing and not self.rows and self.trials is None:
            self.missing = "the task evaluates its test in a way of its own"
        if self.missing:
            return None
        part = task.data.opened["test"]
        # Trials and queries may come from a part of the split.
        known = set(self.rows) if self.trials is None else set(self.keys)
        metas = dict(zip(part.keys, part.metas(), strict=True))
        keys = self.keys if self.trials is not None else tuple(key for key in metas if key in known)
        table = np.array([self.rows[key] for key in keys]) if self.trials is None else np.empty((0, 2))
        results = UtteranceResults(
            task=task.name,
            metric=task.metric,
            better=task.directions[task.metric],
            scale=task.unit(task.metric).scale,
            corpus=task.data.corpus.name,
            split=part.name,
            data=task.data.version("test"),
            rows=self.what,
            keys=keys,
            errors=table[:, self.column],
            counts=table[:, -1],
            speakers=_speakers(keys, [metas[key].get("speaker") for key in keys]),
            trials=self.trials,
        )
        try:
            check_results(results)
        except ValueError as error:
            self.missing = f"the scores of utterances cannot be used ({error})"
            return None
        found = results.value
        if not math.isclose(found, headline, rel_tol=1e-5, abs_tol=1e-6):
            self.missing = (
                f"the scores of single utterances give {found:.6g} and not {headline:.6g}, so {task.metric} is no ratio of "
                "sums over utterances"
            )
            return None
        return results
