"""The trials of a sweep in an Optuna study, stored as a journal file in the sweep's folder."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wavlm_lightning.system.errors import UserError, pip_install
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.reading import read_json, reading
from wavlm_lightning.system.run_folder import LAST, checkpoint
from wavlm_lightning.workflows.fit.head_runs import files_named, shards_named
from wavlm_lightning.workflows.sweep.file import SweepFile

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

JOURNAL, RECORD, NAME = "journal.jsonl", "sweep.json", "sweep"
SLOT, GIVEN_UP, UNIT = "slot", "given_up", "unit"  # user attributes of an Optuna trial
# Keys of the sweep file that may not change between two calls; `run_cap` may be raised.
_SHAPING = ("method", "metric", "parameters", "early_terminate", "command", "program")
State = Literal["done", "given up", "failed", "begun"]
STATES: dict[str, State] = {"COMPLETE": "done", "PRUNED": "given up", "FAIL": "failed"}
ENDED: tuple[State, ...] = ("done", "given up")


@dataclass(frozen=True)
class Trial:
    """A trial with its results so far."""

    slot: int  # index of the trial in the sweep, from 0
    number: int  # of the Optuna trial; a retry of a failed trial has a new number
    values: dict[str, Any]  # name of a parameter -> its value
    state: State  # `given up` is pruned, `begun` is running or interrupted
    reported: dict[int, float]  # validation, from 1 -> the metric
    value: float | None  # the best of `reported`; infinite if none is finite; None before the first validation
    unit: dict[str, Any] | None = None  # fields of the metric's `wavlm_lightning.tasks.Unit`; None if no task gives one

    @property
    def text(self) -> str:
        """The value as people read it, in the metric's unit; empty before the first validation."""
        if self.value is None:
            return ""
        if not math.isfinite(self.value):
            return "not finite"
        if self.unit is None:
            return f"{self.value:.5g}"
        from wavlm_lightning.tasks import Unit

        return Unit(**self.unit).text(self.value)

    @property
    def folder_name(self) -> str:
        return f"trial-{self.slot:03}"


class SweepStudy:
    """Remembers the trials of a sweep and chooses the values of new ones.

    The values of a slot depend on the seed, the slot and, for `bayes`, on the results so far. A resumed sweep therefore
    draws the values that it would have drawn without the interruption.

    Raises:
        UserError: the folder holds another sweep, or Optuna is not installed.
    """

    def __init__(self, folder: Path, sweep: SweepFile, options: Sequence[str], seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(f"wavlm sweep needs Optuna: {pip_install('sweep')}") from error
        self.folder, self.sweep, self.seed = folder, sweep, seed
        content = {key: sweep.body.get(key) for key in _SHAPING} | {"options": [*options], "seed": seed}
        values = {each.name: each.values[0] if each.values else each.low for each in sweep.parameters}
        words = [*sweep.options(values), *options]
        # All values of a parameter may name files, and so may variables of the environment in the command.
        words += [str(value) for each in sweep.parameters for value in each.values or ()]
        parts = [part for word in words for part in word.split("=", 1)]
        files = files_named(parts)
        content |= {"files": files, "variables": sweep.variables}
        if shards := shards_named(parts):
            content["shards"] = shards
        record = folder / RECORD
        if record.is_file():
            before = read_json(
                record, "the record of a sweep", f"remove the folder {folder}, or choose another --output"
            )
            for newer in ("files", "variables", "shards"):
                if newer not in before:  # of a sweep that an older version began
                    content.pop(newer, None)
            if "files" in content and "variables" not in content:  # it looked at the first value of each parameter
                content["files"] = {word: state for word, state in files.items() if word in before["files"]}
            if changed := [key for key in {**before, **content} if before.get(key) != content.get(key)]:
                other = ", ".join(changed)
                raise UserError(f"{folder} holds a sweep with other {other}; choose another --output, or remove it")
        elif folder.is_dir() and any(path.name != "lock" for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no sweep; choose another --output")
        else:
            write_json(record, content)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = open_study(folder, sweep)

    def trials(self) -> list[Trial]:
        """The newest Optuna trial of every slot that was begun, by slot."""
        remedy = f"remove the folder {self.folder}, or choose another --output"
        with reading(self.folder / JOURNAL, "the journal of a sweep", remedy):
            found = [trial for trial in self.study.get_trials(deepcopy=False) if SLOT in trial.user_attrs]
            newest = {
                trial.user_attrs[SLOT]: trial for trial in found
            }  # Optuna lists them in the order of their numbers
            return [self._read(newest[slot]) for slot in sorted(newest)]

    def _read(self, trial: FrozenTrial) -> Trial:
        best, worst = (min, math.inf) if self.sweep.goal == "minimize" else (max, -math.inf)
        reported = dict(trial.intermediate_values)
        finite = [value for value in reported.values() if math.isfinite(value)]
        values = {p.name: p.decode(trial.params[p.name]) for p in self.sweep.parameters}
        value = best(finite) if finite else worst if reported else None
        state = STATES.get(trial.state.name, "begun")
        return Trial(trial.user_attrs[SLOT], trial.number, values, state, reported, value, trial.user_attrs.get(UNIT))

    def begin(self, slot: int) -> Trial:
        """The trial of a slot: the interrupted one, a retry of the failed one, or a new one."""
        from optuna.trial import TrialState, create_trial

        before = {trial.slot: trial for trial in self.trials()}.get(slot)
        if before is not None and before.state == "begun":
            return before
        distributions = {p.name: p.distribution() for p in self.sweep.parameters}
        if before is None and self.sweep.method != "grid":
            self.study.sampler = _sampler(self.sweep.method, self.seed, slot)  # fresh: no state to save between calls
            self.study.ask(distributions).set_user_attr(SLOT, slot)
        else:
            values = self.sweep.grid()[slot] if before is None else before.values
            # A failed run with a checkpoint resumes from it, so the values that it reported before remain valid.
            resumes = before is not None and checkpoint(self.folder / before.folder_name, LAST).exists()
            trial = create_trial(
                state=TrialState.RUNNING,
                params={p.name: p.encode(values[p.name]) for p in self.sweep.parameters},
                distributions=distributions,
                user_attrs={SLOT: slot},
                intermediate_values=before.reported if before is not None and resumes else None,
            )
            self.study.add_trial(trial)
        return next(trial for trial in self.trials() if trial.slot == slot)

    def end(self, trial: Trial) -> Trial:
        """Close a trial whose process has succeeded.

        Raises:
            UserError: the trial never reported the metric; it is marked as failed.
        """
        from optuna.trial import TrialState

        now = self._read(self.study.get_trials(deepcopy=False)[trial.number])
        if now.value is None:
            self.fail(trial)
            raise UserError(
                f"{trial.folder_name} never logged {self.sweep.metric} at a validation; correct metric.name in "
                f"{self.sweep.path}, or let trials validate (trainer.val_check_interval)"
            )
        pruned = is_given_up(self.study, trial.number)
        self.study.tell(trial.number, None if pruned else now.value, TrialState.PRUNED if pruned else None)
        return self._read(self.study.get_trials(deepcopy=False)[trial.number])

    def fail(self, trial: Trial) -> None:
        """Close a trial whose process has failed; the next call of the sweep retries it."""
        from optuna.trial import TrialState

        self.study.tell(trial.number, state=TrialState.FAIL)


def open_study(folder: Path, sweep: SweepFile) -> Study:
    """The study in a sweep's folder; it is created if it does not exist."""
    import optuna
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    with reading(folder / JOURNAL, "the journal of a sweep", f"remove the folder {folder}, or choose another --output"):
        return optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(folder / JOURNAL))),
            study_name=NAME,
            direction=sweep.goal,
            pruner=SuccessiveHalvingPruner(*sweep.halving) if sweep.halving else NopPruner(),
            load_if_exists=True,
        )


def is_given_up(study: Study, number: int) -> bool:
    """Whether a trial was pruned, perhaps by a process that has not told the study its state yet."""
    return GIVEN_UP in study.get_trials(deepcopy=False)[number].user_attrs


def _sampler(method: str, seed: int, slot: int) -> Any:
    from optuna.samplers import RandomSampler, TPESampler

    drawn = int(np.random.SeedSequence([seed, slot]).generate_state(1)[0])
    # W&B fits a Gaussian process. TPE is as good for tens of trials, and handles choices as well.
    # `constant_liar` counts running trials as bad, or trials that run at the same time could draw almost the same values.
    return RandomSampler(drawn) if method == "random" else TPESampler(seed=drawn, constant_liar=True)
