"""Runs of several heads: each leaves a run folder of its own, as if it had been fitted alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger

from wavlm_lightning.callbacks.checkpoints import BEST
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks import Task
from wavlm_lightning.tasks.joint.many_heads import ManyHeads


class BestOfHead(ModelCheckpoint):
    """`best.ckpt` of one of several heads.

    Args:
        folder: the run folder of all.
        label: of the head.
        head: what to watch in validation.
    """

    def __init__(self, folder: Path, label: str, head: Task) -> None:
        monitor, mode = head.monitor
        super().__init__(
            folder / label / "checkpoints",
            filename=BEST,
            monitor=f"{label}/{monitor}",
            mode=mode,
            enable_version_counter=False,
            save_on_train_epoch_end=False,
        )
        self.label = label

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        module: Any = trainer.lightning_module
        with module.alone(self.label):
            super()._save_checkpoint(trainer, filepath)


class CurvesOfHeads(Logger):
    """`curves/version_N/metrics.csv` in the run folder of each head.

    Args:
        root: the run folder of all.
        labels: of the heads.
    """

    def __init__(self, root: Path, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.loggers = {label: CSVLogger(root / label, name="curves", flush_logs_every_n_steps=100) for label in labels}

    @property
    def name(self) -> str:
        """Of the folder of curves."""
        return "curves"

    @property
    def version(self) -> int | str:
        """Of the first head's curves."""
        return next(iter(self.loggers.values())).version

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Nothing: `config.yaml` has them."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """To each head its own, and what is nobody's."""
        shared = {name: value for name, value in metrics.items() if name.partition("/")[0] not in self.loggers}
        for label, logger in self.loggers.items():
            own = {
                name.removeprefix(f"{label}/"): value for name, value in metrics.items() if name.startswith(f"{label}/")
            }
            if own:
                logger.log_metrics({**own, **shared}, step)

    def save(self) -> None:
        """Write what is pending."""
        for logger in self.loggers.values():
            logger.save()

    def finalize(self, status: str) -> None:
        """Write the end."""
        for logger in self.loggers.values():
            logger.finalize(status)


def check_callbacks(callbacks: list[Any]) -> None:
    """Make sure that nothing watches a metric as if there were one head.

    Raises:
        UserError: something does.
    """
    for callback in callbacks:
        if isinstance(callback, EarlyStopping | ModelCheckpoint):
            raise UserError(
                f"trainer.callbacks: {type(callback).__name__} looks at one head; leave it away where there are several"
            )


def check_new(root: Path, labels: tuple[str, ...]) -> None:
    """Make sure that no head's folder holds a run.

    Raises:
        UserError: one does.
    """
    for label in labels:
        if any((root / label / "checkpoints").glob("*.ckpt")):
            raise UserError(
                f"{root / label} already holds a run; remove it, or choose another --trainer.default_root_dir"
            )


def load_best(module: ManyHeads, root: Path) -> None:
    """Load every head's `best.ckpt`.

    Raises:
        UserError: one is missing.
    """
    for label, head in module.each():
        path = root / label / "checkpoints" / f"{BEST}.ckpt"
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint; has this run been fitted?")
        state = torch.load(path, map_location="cpu", weights_only=True)
        head.on_load_checkpoint(state)
        head.load_state_dict(state["state_dict"])
