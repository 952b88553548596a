"""Progress bars of runs: one over all updates of a training, one over the batches of a validation, test or prediction."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from wavlm_lightning.system.progress import progress_bar
from wavlm_lightning.tasks import Task

QUIET_SECONDS = 5.0  # before a validation shows a bar


class StepProgress(ProgressBar):
    """One progress bar over the `max_steps` of a run instead of one for each epoch, with the logged metrics beside it.

    A validation of more than some seconds has a bar of its own below, and so have `validate`, `test` and `predict`.

    Example:
        >>> Trainer(max_steps=1000, callbacks=[StepProgress()])
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm | None = None
        self.batches: tqdm | None = None  # of a validation, test or prediction
        self.shown = True

    def disable(self) -> None:  # Lightning calls it on all ranks but the first
        self.shown = False

    def enable(self) -> None:
        self.shown = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        name = getattr(pl_module, "name", None) or type(pl_module).__name__
        step = trainer.global_step  # above 0 in a resumed run
        self.bar = progress_bar(total=total, initial=step, desc=name, unit="step", disable=not self.shown)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert self.bar is not None
        if trainer.global_step > self.bar.n:
            figures = self.get_metrics(trainer, pl_module)
            figures.pop("v_num", None)  # the version of the curves says nothing here
            self.bar.set_postfix(readable(figures, pl_module), refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        within = trainer.state.fn == "fit"
        self._open("validation", trainer.num_val_batches, delay=QUIET_SECONDS if within else 0.0, leave=not within)

    def on_test_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open("test", trainer.num_test_batches)

    def on_predict_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._open("predict", trainer.num_predict_batches)

    def _open(self, what: str, batches: Sequence[float], **options: Any) -> None:
        total = None if math.isinf(sum(batches)) else int(sum(batches))
        self._close()
        self.batches = progress_bar(total=total, desc=what, unit="batch", disable=not self.shown, **options)

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.batches is not None:
            self.batches.update()

    on_test_batch_end = on_predict_batch_end = on_validation_batch_end

    def on_validation_end(self, *_: Any) -> None:
        self._close()

    on_test_end = on_predict_end = on_validation_end

    def _close(self) -> None:
        if self.batches is not None:
            self.batches.close()
            self.batches = None

    def on_train_end(self, *_: Any) -> None:
        self._close()
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    on_exception = on_train_end


def readable(figures: dict[str, Any], module: pl.LightningModule) -> dict[str, Any]:
    """The figures of a bar, a task's metrics in their units: `valid/per` 0.4723 as "47.23 %"."""
    if not isinstance(module, Task):
        return figures
    units = {
        f"{label}/{stage}/{metric}".lstrip("/"): head.unit(metric)
        for label, head in module.heads().items()
        for stage in ("valid", "test")
        for metric in head.directions
    }
    return {name: units[name].text(float(value)) if name in units else value for name, value in figures.items()}
