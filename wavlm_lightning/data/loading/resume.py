"""A data module that knows where its training stream is, so that an interrupted run goes on with the next batch."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.data.loading.batching import BatchPlan
from wavlm_lightning.system.errors import UserError


class ResumableData(pl.LightningDataModule):
    """Keeps epoch and batch in the checkpoint; a subclass says what its batches depend on and calls `resume`.

    The state lives here and not in the loader: Lightning drops a loader's state if anything asks for
    `estimated_stepping_batches`, and restores a data module's before it asks for the loader.
    """

    _position: dict[str, Any] | None = None

    def layout(self) -> dict[str, Any]:
        """Everything that decides which batch comes when, JSON-like."""
        raise TypeError(f"{type(self).__name__} must say what its batches depend on")

    def state_dict(self) -> dict[str, Any]:
        """Where the stream is: two integers, and what they count in."""
        if self.trainer is None:
            return {}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        layout = {**self.layout(), "world_size": self.trainer.world_size}
        return {"epoch": self.trainer.current_epoch, "batch": progress.processed, "layout": layout}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Remember where to go on."""
        self._position = state_dict or None

    def resume(self, plan: BatchPlan) -> None:
        """Wind the plan of the training batches forward to where the checkpoint was written.

        Raises:
            UserError: the batches would be others than those of the interrupted run.
        """
        position, self._position = self._position, None
        if position is None or self.trainer is None:
            return
        ours, theirs = {**self.layout(), "world_size": self.trainer.world_size}, position["layout"]
        for key in {**ours, **theirs}:
            if ours.get(key) != theirs.get(key):
                raise UserError(
                    f"resume: {key} of this run is {ours.get(key)}, the checkpoint has {theirs.get(key)}; the batches would "
                    "differ silently, so resume with the same corpus, labels, processes and batch settings"
                )
        if position["batch"] < len(plan):
            plan.set_epoch(position["epoch"])
            plan.begin = position["batch"]
        else:
            plan.set_epoch(position["epoch"] + 1)
