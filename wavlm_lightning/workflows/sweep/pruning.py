"""Reports the metric of a trial to its sweep after each validation, and ends hopeless trials."""

from __future__ import annotations

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl

from wavlm_lightning.tasks import Task
from wavlm_lightning.workflows.sweep.checks import check_goal
from wavlm_lightning.workflows.sweep.file import SweepFile
from wavlm_lightning.workflows.sweep.study import GIVEN_UP, UNIT, open_study


class ReportToSweep(pl.Callback):
    """Reports the metric after each validation, and stops the run if Optuna's pruner says so.

    `folder` is that of the sweep, `number` that of the Optuna trial.
    """

    def __init__(self, folder: Path, sweep: SweepFile, number: int) -> None:
        self.folder, self.sweep, self.number = folder, sweep, number
        self.validations = 0  # so far, including those before an interruption
        self.unit: dict[str, Any] | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.validations = state_dict["validations"]

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Learn the metric's unit from the task; a `UserError` if the sweep would look for its worst value."""
        label, _, metric = self.sweep.metric.rpartition("valid/")
        task = pl_module.heads().get(label.rstrip("/")) if isinstance(pl_module, Task) else None
        if task is None or metric not in task.directions:
            return
        check_goal(self.sweep, task.name, task.directions[metric])
        self.unit = asdict(task.unit(metric))

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validations += 1
        stop = trainer.is_global_zero and self.report(trainer.callback_metrics.get(self.sweep.metric))
        trainer.should_stop |= bool(trainer.strategy.broadcast(stop))

    def report(self, value: Any) -> bool:
        """Report the metric of this validation, None if it was not logged; whether the trial is given up."""
        if value is None:
            return False
        from optuna.trial import Trial as OptunaTrial

        study = open_study(self.folder, self.sweep)
        # `ask` was called in the parent process, and Optuna has no public way to report to the trial from here.
        trial = OptunaTrial(study, study.get_trials(deepcopy=False)[self.number]._trial_id)
        if self.unit is not None:
            trial.set_user_attr(UNIT, self.unit)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a resumed run repeats the validations since its last checkpoint
            trial.report(float(value), self.validations)
        if not trial.should_prune():
            return False
        trial.set_user_attr(GIVEN_UP, True)
        return True
