"""Runs of several heads: checkpoints and curves in a run folder of each head, as if it had been trained alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from lightning.pytorch.loggers import Logger

from wavlm_lightning.callbacks.checkpoints import ONE_FILE, RunCheckpoint, best
from wavlm_lightning.callbacks.curves import Curves
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.run_folder import BEST, CURVES, checkpoint
from wavlm_lightning.tasks import Task
from wavlm_lightning.upstreams.wavlm import read_run_checkpoint


class BestOfHead(RunCheckpoint):
    """Keeps the `best.ckpt` of one of several heads, by its own `monitor`, in the folder `label` of the run folder."""

    def __init__(self, folder: Path, label: str, head: Task) -> None:
        monitor, mode = head.monitor
        place = folder / label / "checkpoints"
        super().__init__(place, filename=BEST, monitor=f"{label}/{monitor}", mode=mode, **ONE_FILE)
        self.label = label

    def _save_checkpoint(self, trainer: pl.Trainer, filepath: str) -> None:
        module: Any = trainer.lightning_module
        with module.alone(self.label):  # its file is that of a run of this head alone
            super()._save_checkpoint(trainer, filepath)


class CurvesOfHeads(Logger):
    """Writes `curves/version_N/metrics.csv` to the folder of each head in the run folder `root`."""

    def __init__(self, root: Path, labels: tuple[str, ...]) -> None:
        super().__init__()
        self.loggers = {label: Curves(root / label, name=CURVES, flush_logs_every_n_steps=100) for label in labels}

    @property
    def name(self) -> str:
        return CURVES

    @property
    def version(self) -> int | str:
        return next(iter(self.loggers.values())).version

    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        pass  # `config.yaml` has them

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Write each head's own metrics, and the metrics without a label (learning rate, epoch), to its curves."""
        shared = {name: value for name, value in metrics.items() if name.partition("/")[0] not in self.loggers}
        for label, logger in self.loggers.items():
            prefix = f"{label}/"
            own = {name.removeprefix(prefix): value for name, value in metrics.items() if name.startswith(prefix)}
            if own:
                logger.log_metrics({**own, **shared}, step)

    def save(self) -> None:
        for logger in self.loggers.values():
            logger.save()

    def finalize(self, status: str) -> None:
        for logger in self.loggers.values():
            logger.finalize(status)


def best_of_heads(root: Path, module: Any) -> list[ModelCheckpoint]:
    """Callbacks that keep the `best.ckpt` of each head, or of what is pre-trained; none if nothing names its `monitor`."""
    heads = module.heads() if isinstance(module, Task) else {"": module}
    return [
        BestOfHead(root, label, head) if label else best(root / "checkpoints", *head.monitor)
        for label, head in heads.items()
        if hasattr(head, "monitor")
    ]


def check_callbacks(callbacks: list[Any]) -> None:
    """Raise a `UserError` for callbacks that watch the metric of a single head."""
    for callback in callbacks:
        if isinstance(callback, EarlyStopping | ModelCheckpoint):
            kind = type(callback).__name__
            raise UserError(f"trainer.callbacks: {kind} watches one head; remove it, or train one head at a time")


def check_new(root: Path, labels: tuple[str, ...]) -> None:
    """Raise a `UserError` if the folder of a head holds a run, which would be overwritten."""
    for run in (root / label for label in labels):
        if any((run / "checkpoints").glob("*.ckpt")):
            raise UserError(f"{run} already holds a run; remove it, or choose another --trainer.default_root_dir")


def load_best(module: Task, root: Path) -> None:
    """Load the `best.ckpt` of every head; a `UserError` if one is missing."""
    for label, head in module.heads().items():
        path = checkpoint(root / label, BEST)
        if not path.exists():
            raise UserError(f"{path}: no such checkpoint; has this run been fitted?")
        state = read_run_checkpoint(path)
        head.on_load_checkpoint(state)
        head.load_state_dict(state["state_dict"])
