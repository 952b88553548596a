"""Exact resume of the training data: a data module that keeps the position in its stream of batches."""

from __future__ import annotations

import sys
from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.data.loading.batching import BatchPlan
from wavlm_lightning.system.errors import UserError


class ResumableData(pl.LightningDataModule):
    """Keeps epoch and batch in the checkpoint; a subclass defines `layout` and calls `resume`.

    The state is kept here and not in the loader, because Lightning drops the state of a loader if
    `estimated_stepping_batches` is used, and restores that of a data module before it requests the loader.
    """

    _position: dict[str, Any] | None = None

    def layout(self) -> dict[str, Any]:
        """All settings that decide which batch comes when, JSON-like; two runs with equal layouts see equal batches."""
        raise TypeError(f"{type(self).__name__} must define layout()")

    def state_dict(self) -> dict[str, Any]:
        if self.trainer is None:
            return {}
        progress = self.trainer.fit_loop.epoch_loop.batch_progress.current
        layout = {**self.layout(), "world_size": self.trainer.world_size}
        return {"epoch": self.trainer.current_epoch, "batch": progress.processed, "layout": layout}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._position = state_dict or None

    def resume(self, plan: BatchPlan) -> None:
        """Move the plan to the position in the checkpoint; `UserError` if the batches would differ from that run's."""
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
        # The epochs that have begun, because Lightning counts the last one as complete once a run has ended, wherever it was.
        begun = self.trainer.fit_loop.epoch_progress.current.ready
        epoch = begun - 1 if begun else position["epoch"]
        if position["batch"] < batches_taken(plan, self.trainer.limit_train_batches):
            lost = position["batch"] % self.trainer.accumulate_grad_batches
            if lost and self.trainer.is_global_zero:
                print(
                    "note: the checkpoint was written between the batches of an update, at a validation (val_check_interval is "
                    f"no multiple of accumulate_grad_batches); the gradient of {lost} of them is lost, so that the weights will "
                    "not be those of a run that nothing stopped. --ckpt_path last goes on exactly",
                    file=sys.stderr,
                )
            plan.set_epoch(epoch)
            plan.begin = position["batch"]
        else:
            plan.set_epoch(epoch + 1)


def batches_taken(plan: BatchPlan, limit: float) -> int:
    """Batches of an epoch under `trainer.limit_train_batches`: a number (int), or a share of all (float)."""
    return min(limit, len(plan)) if isinstance(limit, int) else int(limit * len(plan))
