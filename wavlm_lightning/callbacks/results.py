"""What `wavlm test` and `wavlm predict -c` leave in the run folder: result card and predictions."""

from __future__ import annotations

import math
import platform
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import BasePredictionWriter
from torch import Tensor

import wavlm_lightning
from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.split import Split
from wavlm_lightning.encoder.checkpoints.tensor_files import write_tensors
from wavlm_lightning.reports.cards import LIMITED, CorpusReference, MetricValue, ResultCard, Selection
from wavlm_lightning.reports.transcripts import write_transcripts
from wavlm_lightning.reports.utterances import described, write_results
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.hardware import machine_facts
from wavlm_lightning.system.run_folder import LAST, checkpoint, heads_inside
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.base import PERCENT
from wavlm_lightning.upstreams.run_checkpoints import read_entries


class WriteResultCard(pl.Callback):
    """Writes `card.json` to the run folder at the end of `wavlm test`, or to the folder of each of several heads.

    The card names `command`, which is the command as the user typed it. `further` is a folder inside these, for figures of
    other test data than the run's own.
    """

    def __init__(self, folder: Path, command: str, further: str = "") -> None:
        self.folder, self.command, self.further = folder, command, further
        self.started = 0.0

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.started = time.perf_counter()

    def on_test_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the cards, on rank 0; a `UserError` if heads have no finite figures, after the cards of all others."""
        if not isinstance(pl_module, Task) or not trainer.is_global_zero or trainer.fast_dev_run:
            return
        heads, failures = pl_module.heads(), []
        for label, head in heads.items():
            try:
                self.write(head, self.folder / label / self.further)
            except UserError as error:
                failures.append(error)
        if failures:
            several = f"{len(failures)} of {len(heads)} heads have no card: {failures[0]}"
            raise failures[0] if len(heads) == 1 else UserError(several)

    def write(self, task: Task, folder: Path) -> None:
        """Write the card of a task; `workflows.fit.closing` prints its headlines after all else."""
        card = self.card(task)
        # The card last: it tells sweeps and `wavlm superb` that a run is done.
        write_results(folder, task.utterance_results)
        write_transcripts(folder, getattr(task, "test_transcripts", None))
        card.write(folder)

    def card(self, task: Task) -> ResultCard:
        """The card of a task that has just been tested."""
        data = task.data
        assert data is not None, "a task that was tested has been served"
        part = data.opened["test"]
        trained = task.trained
        selection: Selection | None = trained.get("selection")
        if selection is not None:
            names = data.splits["valid"], data.splits["test"]
            selection = {**selection, "split": task.selection_split(*names)}
        metrics: dict[str, MetricValue] = {}
        for name, better in task.directions.items():
            unit = task.unit(name)
            if name != task.metric and f"test/{name}" not in task.trainer.callback_metrics:
                continue  # its package is not installed, or no utterance has such a figure; `details` say so
            value = round(float(task.trainer.callback_metrics[f"test/{name}"]) * unit.scale, 4)
            metrics[name] = {"value": value, "unit": unit.name, "better": better}
            if unit != PERCENT:  # cards of percentages stay as older versions wrote them
                metrics[name] |= {"scale": unit.scale, "decimals": unit.decimals}
        if task.chance is not None:
            metrics[task.metric]["chance"] = task.unit(task.metric).scale * task.chance
        found, intervals = task.utterance_results, {}
        for each in task.further_results():
            if math.isclose(each.value, float(task.trainer.callback_metrics[f"test/{each.metric}"]), abs_tol=1e-5):
                intervals[each.metric] = described(each)
        return ResultCard(
            interval=None if found is None else described(found),
            intervals=intervals,
            interval_note="" if found is not None else task.scored.missing,
            rates_tried=1,
            task=task.name,
            metrics=metrics,
            headline=task.metric,
            headlines=[name for name in task.headlines if name in metrics],
            corpus=_tested(task, part),
            upstream=task.upstream.describe(),  # type: ignore[arg-type]
            learning_rate=trained.get("learning_rate", task.learning_rate),
            seed=trained.get("seed", task.seed),
            steps=trained.get("steps", 0),
            updates=_updates_made(task, self.folder),
            best_step=trained.get("best_step", 0),
            selection=selection,
            protocol=task.protocol,
            details=task.details,
            fitted=task.fitted,
            averaged=trained.get("averaged", []),
            started=task.started,
            labelled=dict(trained.get("labelled", {})),
            pseudo_labelled=dict(trained.get("pseudo_labelled", {})),
            trainable_parameters=sum(p.numel() for p in task.parameters() if p.requires_grad),
            layer_weights=task.weighted_sum.weights(),
            runtime_seconds=round(time.perf_counter() - self.started, 2),
            training_seconds=round(task.seconds_before, 2),
            machine=machine_facts(task.trainer.strategy.root_device),
            command=self.command,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            versions={
                "wavlm_lightning": wavlm_lightning.__version__,
                "torch": torch.__version__,
                "lightning": pl.__version__,
                "python": platform.python_version(),
            },
        )


def _updates_made(task: Task, run: Path) -> int | None:
    """Updates of the run that the tested checkpoint is of: one that was stopped must not pass as a whole one."""
    if not task.trained:
        return None
    tested = task.trainer.ckpt_path
    last = checkpoint(run, LAST) if tested is None else Path(tested).with_name(f"{LAST}.ckpt")
    own, outer = last.parent.parent, last.parent.parent.parent
    if not last.exists() and own in heads_inside(outer):  # heads that were trained side by side have one for all
        last = checkpoint(outer, LAST)
    # Averages and copies of a checkpoint have none.
    return int(read_entries(last)["global_step"]) if last.exists() else None


def _tested(task: Task, part: Split) -> CorpusReference:
    """The test data on a card: the whole split, or the utterances at which `trainer.limit_test_batches` ended it."""
    assert task.data is not None
    limit, name, utterances, seconds = task.trainer.limit_test_batches, part.name, len(part), part.seconds
    if not (limit == 1.0 and isinstance(limit, float)):
        place = {key: number for number, key in enumerate(part.keys)}
        samples = part.samples[[place[key] for key in task.tested]].sum()
        name, utterances = f"{name}{LIMITED}{limit}", len(task.tested)
        seconds = float(samples) / SAMPLE_RATE
    return {
        "name": task.data.corpus.name,
        "path": str(task.data.path),
        "split": name,
        "utterances": utterances,
        "seconds": round(seconds, 2),
        "sha256": task.data.version("test"),
    }


class WritePredictions(BasePredictionWriter):
    """Writes `predictions.safetensors` to the run folder: key of each utterance -> its output; one file for each rank."""

    def __init__(self, folder: Path) -> None:
        super().__init__("batch_and_epoch")
        self.folder = folder
        self.rows: dict[str, Tensor] = {}

    def write_on_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: Any, *_: Any) -> None:
        assert isinstance(pl_module, Task)
        rows = pl_module.answer_rows(prediction["outputs"], prediction["lengths"])
        for key, row in zip(prediction["keys"], rows, strict=True):
            self.rows[key] = row.float().cpu().contiguous()

    def write_on_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        rank = f"-{trainer.global_rank}" if trainer.world_size > 1 else ""
        write_tensors(self.folder / f"predictions{rank}.safetensors", self.rows)
