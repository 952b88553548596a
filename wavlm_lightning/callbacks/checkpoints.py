"""What every run started by `wavlm` brings along: one bar over all steps, and checkpoints in fixed places."""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import BasePredictionWriter, ModelCheckpoint, ProgressBar
from torch import Tensor
from tqdm import tqdm

from wavlm_lightning.system.progress import progress_bar

NEWEST, BEST = "last", "best"


class StepProgress(ProgressBar):
    """One bar over `max_steps` of a run, whatever its epochs; validation and test get short bars of their own.

    Example:
        >>> Trainer(max_steps=1000, callbacks=[StepProgress()])
    """

    def __init__(self) -> None:
        super().__init__()
        self.bar: tqdm | None = None
        self.shown = True

    def disable(self) -> None:
        """Show nothing (Lightning calls this on all ranks but the first)."""
        self.shown = False

    def enable(self) -> None:
        """Show."""
        self.shown = True

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Begin the bar where a resumed run goes on."""
        total = trainer.max_steps if trainer.max_steps > 0 else None
        name = getattr(pl_module, "name", None) or type(pl_module).__name__
        self.bar = progress_bar(
            total=total, initial=trainer.global_step, desc=name, unit="step", disable=not self.shown
        )

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *_: Any) -> None:
        """Move on by the updates made."""
        assert self.bar is not None
        if trainer.global_step > self.bar.n:
            self.bar.set_postfix(self._figures(trainer, pl_module), refresh=False)
            self.bar.update(trainer.global_step - self.bar.n)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the finished bar on the screen."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Free the line for the message."""
        self._close()

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def _figures(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        figures = self.get_metrics(trainer, pl_module)
        return {name: value for name, value in figures.items() if name != "v_num"}


class Newest(ModelCheckpoint):
    """`last.ckpt`: every so many updates, when training is interrupted, and at its end.

    Args:
        folder: where it goes.
        every: updates between two writings.
    """

    def __init__(self, folder: Path, every: int) -> None:
        super().__init__(
            folder,
            filename=NEWEST,
            every_n_train_steps=every,
            enable_version_counter=False,
            save_on_exception=True,
            save_on_train_epoch_end=False,
        )

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Write only what goes on exactly: not in the middle of an update, nor alone where processes write together."""
        if isinstance(exception, Stopped) or (trainer.world_size == 1 and _between_updates(trainer, exception)):
            super().on_exception(trainer, pl_module, exception)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write again what was written just before the validation: which checkpoint is best may have changed since."""
        if not trainer.sanity_checking and self._last_global_step_saved == trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write the end of the run too, or what comes after the last round number would be lost."""
        super().on_train_end(trainer, pl_module)
        if not trainer.interrupted and self._last_global_step_saved != trainer.global_step:
            self._save_topk_checkpoint(trainer, self._monitor_candidates(trainer))


class WritePredictions(BasePredictionWriter):
    """`predictions.safetensors` in the run folder: the logits of each utterance under its key (one file a rank).

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__("batch_and_epoch")
        self.folder = folder
        self.rows: dict[str, Tensor] = {}

    def write_on_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, prediction: Any, *_: Any) -> None:
        """Keep `(classes,)`, or `(frames, classes)` without padding."""
        for key, output, length in zip(*(prediction[name] for name in ("keys", "outputs", "lengths")), strict=True):
            self.rows[key] = (output[:length] if output.ndim > 1 else output).float().cpu().contiguous()

    def write_on_epoch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """Write the file."""
        from safetensors.torch import save_file

        self.folder.mkdir(parents=True, exist_ok=True)
        rank = f"-{trainer.global_rank}" if trainer.world_size > 1 else ""
        save_file(self.rows, self.folder / f"predictions{rank}.safetensors")


class Stopped(KeyboardInterrupt):
    """Somebody asked the run to stop, and all processes have made the same last update."""


def _between_updates(trainer: pl.Trainer, exception: BaseException) -> bool:
    """Whether an error has left the weights of a whole number of updates."""
    if isinstance(exception, KeyboardInterrupt):  # "at once", perhaps while the optimiser was changing the weights
        return False
    done = trainer.fit_loop.epoch_loop.batch_progress.current.processed
    return done % trainer.accumulate_grad_batches == 0 or done == trainer.num_training_batches


class StopBetweenUpdates(pl.Callback):
    """Ctrl-C or SIGTERM ends the run after the update that is being made, so that it resumes exactly; a second one at once.

    In the middle of an update some weights would be new and others old. Lightning's own answer to SIGTERM may come
    between two epochs, from where it resumes in the wrong place. Of several processes one alone may hear the signal, or
    hear it an update later: after each update they ask one another, and stop together.
    """

    def __init__(self) -> None:
        self.asked = False
        self.updates = 0
        self.before: dict[signal.Signals, Any] = {}

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Listen; only the main thread can."""
        self.asked, self.updates = False, trainer.global_step
        if threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is not signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._note)

    def _note(self, *_: Any) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True
        tqdm.write("stopping after this update; once more stops at once", file=sys.stderr)

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        """End the run if any process was asked to and an update has just been made.

        Raises:
            Stopped: in all processes.
        """
        made, self.updates = trainer.global_step > self.updates, trainer.global_step
        if made and trainer.strategy.reduce_boolean_decision(self.asked, all=False):
            for number in self.before:  # nothing may cut the writing of the checkpoint short
                signal.signal(number, signal.SIG_IGN)
            raise Stopped

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Leave the signals as they were."""
        while self.before:
            signal.signal(*self.before.popitem())


def best(folder: Path, monitor: str, mode: str) -> ModelCheckpoint:
    """`best.ckpt`: the best validation so far.

    Args:
        folder: where it goes.
        monitor: the logged metric.
        mode: `min` or `max`.
    """
    return ModelCheckpoint(
        folder, filename=BEST, monitor=monitor, mode=mode, enable_version_counter=False, save_on_train_epoch_end=False
    )
