"""The metric of a trial, told to its sweep after each validation; what is hopeless is given up."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning.pytorch as pl

from wavlm_lightning.workflows.sweep.file import read_sweep
from wavlm_lightning.workflows.sweep.study import GIVEN_UP, JOURNAL, open_study

if TYPE_CHECKING:
    from optuna.trial import FrozenTrial


@dataclass(frozen=True)
class TrialRun:
    """A trial, as a process is told to run it.

    Attributes:
        folder: of its run.
        number: in the study.
        sweep: path of the sweep file.
        options: what follows `wavlm fit`.
        scores: test the best checkpoint afterwards.
    """

    folder: str
    number: int
    sweep: str
    options: tuple[str, ...]
    scores: bool

    @property
    def in_study(self) -> FrozenTrial:
        """What the study knows of it."""
        study = open_study(Path(self.folder).parent / JOURNAL, read_sweep(self.sweep))
        return study.get_trials(deepcopy=False)[self.number]

    @property
    def given_up(self) -> bool:
        """Whether it was ended early."""
        return GIVEN_UP in self.in_study.user_attrs


class ReportToSweep(pl.Callback):
    """Tells the study the metric after each validation, and ends the run if the study gives it up.

    Args:
        run: the trial.

    Attributes:
        validations: so far, those before an interruption included.
    """

    def __init__(self, run: TrialRun) -> None:
        self.run, self.validations = run, 0
        self.sweep = read_sweep(run.sweep)

    def state_dict(self) -> dict[str, Any]:
        """How many validations there were."""
        return {"validations": self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Count on."""
        self.validations = state_dict["validations"]

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Report, and stop if told to."""
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        self.validations += 1
        stop = trainer.is_global_zero and self._report(trainer.callback_metrics.get(self.sweep.metric))
        trainer.should_stop |= bool(trainer.strategy.broadcast(stop))

    def _report(self, value: Any) -> bool:
        """Whether the trial is given up."""
        if value is None:
            return False
        from optuna.trial import Trial as OptunaTrial

        study = open_study(Path(self.run.folder).parent / JOURNAL, self.sweep)
        trial = OptunaTrial(study, study.get_trials(deepcopy=False)[self.run.number]._trial_id)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # after an interruption some validations come once more
            trial.report(float(value), self.validations)
        if not trial.should_prune():
            return False
        trial.set_user_attr(GIVEN_UP, True)
        return True
