"""What one of several heads sees of the trainer that trains them all."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from torch import Tensor

from wavlm_lightning.system.errors import UserError


class TrainerOfHead:
    """The trainer as one of several heads sees it: the metrics are its own, under the names that it logged.

    Args:
        trainer: of all.
        label: of the head.
    """

    def __init__(self, trainer: pl.Trainer, label: str) -> None:
        self._trainer, self._prefix = trainer, f"{label}/"

    def __getattr__(self, name: str) -> Any:
        return getattr(self._trainer, name)

    @property
    def callback_metrics(self) -> dict[str, Tensor]:
        """What the head has logged."""
        found = self._trainer.callback_metrics
        return {name.removeprefix(self._prefix): found[name] for name in found if name.startswith(self._prefix)}


def check_trainer(trainer: pl.Trainer) -> None:
    """Make sure that a trainer can train each of several heads as if it were alone.

    Raises:
        UserError: several processes, or a loss scale that all heads would share.
    """
    if trainer.num_devices * trainer.num_nodes > 1:
        raise UserError(
            "several heads from one pass learn in one process; set trainer.devices: 1 (and num_nodes: 1), or train "
            "one head at a time"
        )
    if trainer.scaler is not None:
        raise UserError(
            "trainer.precision 16-mixed has one loss scale, which one head would change for all; use bf16-mixed or 32"
        )
