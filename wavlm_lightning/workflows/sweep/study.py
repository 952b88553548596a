"""The memory of a sweep: an Optuna study in its folder, one slot a trial that is wanted."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.sweep.file import SweepFile

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial

JOURNAL, RECORD, NAME, GIVEN_UP = "journal.jsonl", "sweep.json", "sweep", "given_up"
_SHAPING = ("method", "metric", "parameters", "early_terminate", "command", "program")
State = Literal["done", "given up", "failed", "begun"]
ENDED: tuple[State, ...] = ("done", "given up")


@dataclass(frozen=True)
class Trial:
    """One trial, as far as it has come.

    Attributes:
        slot: its place in the sweep, from 0.
        number: of the Optuna trial; a failed one that is tried again has a new number.
        values: by parameter.
        state: `done`, `given up` (early), `failed`, or `begun`, which includes interrupted.
        reported: validation -> the metric.
        value: the best of those; the worst there is if none was a number; None if there was no validation.
    """

    slot: int
    number: int
    values: dict[str, Any]
    state: State
    reported: dict[int, float]
    value: float | None

    @property
    def folder_name(self) -> str:
        """The folder of its run."""
        return f"trial-{self.slot:03}"


class SweepStudy:
    """Which trials have been run, what came of them, and what to try next.

    The values of a slot depend on the seed, the slot and, under `bayes`, the results so far: a sweep that is resumed
    draws what it would have drawn.

    Args:
        folder: of the sweep.
        sweep: its file.
        options: what every trial is told besides.
        seed: of the draws.

    Raises:
        UserError: the folder holds another sweep, or Optuna is not installed.
    """

    def __init__(self, folder: Path, sweep: SweepFile, options: list[str], seed: int) -> None:
        try:
            import optuna
        except ImportError as error:
            raise UserError(
                "wavlm sweep needs Optuna; install it with `pip install 'wavlm_lightning[sweep]'`"
            ) from error
        self.folder, self.sweep, self.seed = folder, sweep, seed
        # `run_cap` may be raised between two calls.
        content = {key: sweep.body.get(key) for key in _SHAPING} | {"options": options, "seed": seed}
        record = folder / RECORD
        if record.is_file():
            before = json.loads(record.read_text())
            if changed := [key for key in {**before, **content} if before.get(key) != content.get(key)]:
                raise UserError(
                    f"{folder} holds a sweep with other {', '.join(changed)}; choose another --output, or remove that folder"
                )
        elif folder.is_dir() and any(path.name != "lock" for path in folder.iterdir()):
            raise UserError(f"{folder} is not empty and holds no sweep; choose another --output")
        else:
            record.write_text(json.dumps(content, indent=1))
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.study = open_study(folder / JOURNAL, sweep)

    def trials(self) -> list[Trial]:
        """The newest trial of every slot that was begun, by slot."""
        newest: dict[int, FrozenTrial] = {}
        for trial in self.study.get_trials(deepcopy=False):
            if "slot" in trial.user_attrs:
                newest[trial.user_attrs["slot"]] = trial
        return [self._read(newest[slot]) for slot in sorted(newest)]

    def _read(self, trial: FrozenTrial) -> Trial:
        drawn = {p.name: p.decode(trial.params[p.name]) for p in self.sweep.parameters}
        reported = dict(trial.intermediate_values)
        finite = [value for value in reported.values() if math.isfinite(value)]
        lower = self.sweep.goal == "minimize"
        value = None if not reported else math.inf if lower else -math.inf
        if finite:
            value = min(finite) if lower else max(finite)
        states: dict[str, State] = {"COMPLETE": "done", "PRUNED": "given up", "FAIL": "failed"}
        return Trial(
            trial.user_attrs["slot"], trial.number, drawn, states.get(trial.state.name, "begun"), reported, value
        )

    def begin(self, slot: int) -> Trial:
        """The trial of a slot: the one that was interrupted, the failed one once more, or a new one."""
        from optuna.trial import TrialState, create_trial

        found = {trial.slot: trial for trial in self.trials()}
        before = found.get(slot)
        if before is not None and before.state == "begun":
            return before
        distributions = {p.name: p.distribution() for p in self.sweep.parameters}
        if before is not None or self.sweep.method == "grid":
            values = before.values if before is not None else self.sweep.grid()[slot]
            # A failed run that has a checkpoint goes on from it: what it reported before still holds.
            resumes = before is not None and (self.folder / before.folder_name / "checkpoints" / "last.ckpt").exists()
            self.study.add_trial(
                create_trial(
                    state=TrialState.RUNNING,
                    params={p.name: p.encode(values[p.name]) for p in self.sweep.parameters},
                    distributions=distributions,
                    user_attrs={"slot": slot},
                    intermediate_values=before.reported if before is not None and resumes else None,
                )
            )
        else:
            self.study.sampler = _sampler(self.sweep.method, self.seed, slot)
            self.study.ask(distributions).set_user_attr("slot", slot)
        return next(trial for trial in self.trials() if trial.slot == slot)

    def end(self, trial: Trial) -> Trial:
        """Close a trial whose process has ended well.

        Raises:
            UserError: it never reported the metric; it stands as failed.
        """
        now = next(other for other in self.trials() if other.number == trial.number)
        if now.value is None:
            self.fail(trial)
            raise UserError(
                f"{trial.folder_name} never logged {self.sweep.metric} at a validation; correct metric.name in "
                f"{self.sweep.path}, or let trials validate (trainer.val_check_interval)"
            )
        from optuna.trial import TrialState

        if GIVEN_UP in self.study.get_trials(deepcopy=False)[trial.number].user_attrs:
            self.study.tell(trial.number, state=TrialState.PRUNED)
        else:
            self.study.tell(trial.number, now.value)
        return next(other for other in self.trials() if other.number == trial.number)

    def fail(self, trial: Trial) -> None:
        """Close a trial whose process has failed; the next call of the sweep tries it again."""
        from optuna.trial import TrialState

        self.study.tell(trial.number, state=TrialState.FAIL)


def open_study(journal: Path, sweep: SweepFile) -> Study:
    """The study in a file, new or as it was left."""
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    return optuna.create_study(
        storage=JournalStorage(JournalFileBackend(str(journal))),
        study_name=NAME,
        direction="minimize" if sweep.goal == "minimize" else "maximize",
        pruner=pruner(sweep),
        load_if_exists=True,
    )


def pruner(sweep: SweepFile) -> BasePruner:
    """Optuna's counterpart of `early_terminate`."""
    from optuna.pruners import NopPruner, SuccessiveHalvingPruner

    if sweep.halving is None:
        return NopPruner()
    return SuccessiveHalvingPruner(sweep.halving.first, sweep.halving.factor)


def _sampler(method: str, seed: int, slot: int) -> BaseSampler:
    from optuna.samplers import RandomSampler, TPESampler

    drawn = int(np.random.SeedSequence([seed, slot]).generate_state(1)[0])
    # W&B fits a Gaussian process; a tree-structured Parzen estimator is as good at tens of trials and takes choices, too.
    return RandomSampler(drawn) if method == "random" else TPESampler(seed=drawn, constant_liar=True)
