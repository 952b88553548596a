"""Progress bar of training: one bar over all steps of a run."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import ProgressBar
from tqdm import tqdm

from wavlm_lightning.system.progress import progress_bar


class StepProgress(ProgressBar):
    """One progress bar over the `max_steps` of a run instead of one for each epoch.

    Example:
        >>> Trainer(max_steps=1000, callbacks=[StepProgress()])
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm | None = None
        self.shown = True

    def disable(self) -> None:  # Lightning calls it on all ranks but the first
        self.shown = False

    def enable(self) -> None:
        self.shown = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        total = trainer.max_steps if trainer.max_steps > 0 else None
        name = getattr(pl_module, "name", None) or type(pl_module).__name__
        self.bar = progress_bar(
            total=total, initial=trainer.global_step, desc=name, unit="step", disable=not self.shown
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        assert self.bar is not None
        if trainer.global_step > self.bar.n:
            self.bar.set_postfix(self._figures(trainer, pl_module), refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _figures(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        figures = self.get_metrics(trainer, pl_module)
        return {name: value for name, value in figures.items() if name != "v_num"}
