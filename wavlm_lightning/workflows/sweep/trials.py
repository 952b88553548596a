"""Running the trials of a sweep: some at a time, each in its folder, from where it was left."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import traceback
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from pathlib import Path

from wavlm_lightning.reports.cards import CARD_NAME
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.worker_pool import output_to, worker_pool
from wavlm_lightning.workflows.sweep.pruning import ReportToSweep, TrialRun
from wavlm_lightning.workflows.sweep.study import ENDED, SweepStudy, Trial

TOO_MANY = 3
"""So many failures and no success: what is wrong is not the values."""


def run_trials(
    study: SweepStudy,
    folder: Path,
    slots: Sequence[int],
    extra: Sequence[str],
    *,
    jobs: int,
    scores: bool,
    done: Callable[[Trial | None], object],
) -> list[str]:
    """Run what is left of a sweep.

    Args:
        study: what was tried, and what to try.
        folder: of the sweep.
        slots: which trials; what is done of them is left alone.
        extra: options of every trial.
        jobs: how many at a time.
        scores: test each trial's best checkpoint.
        done: is called after each trial, with None if it failed.

    Returns:
        What went wrong, one sentence a failed trial.
    """
    ended = {trial.slot for trial in study.trials() if trial.state in ENDED}
    left = [slot for slot in slots if slot not in ended]
    failures: list[str] = []
    running: dict[Future[None], Trial] = {}
    succeeded = bool(ended)
    if not left:
        return failures
    with worker_pool(min(jobs, len(left))) as pool:
        while left or running:
            while left and len(running) < jobs:  # one by one, so that each knows the results before it
                trial = study.begin(left.pop(0))
                options = (*study.sweep.options(trial.values), *extra)
                place = str(folder / trial.folder_name)
                run = TrialRun(place, trial.number, str(study.sweep.path), options, scores)
                running[pool.submit(run_trial, run)] = trial
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = running.pop(future)
                try:
                    future.result()
                except UserError as error:
                    study.fail(trial)
                    failures.append(str(error))
                    done(None)
                    continue
                try:
                    done(study.end(trial))
                    succeeded = True
                except UserError as error:
                    failures.append(str(error))
                    done(None)
            if len(failures) >= TOO_MANY and not succeeded:
                left.clear()
    return failures


def run_trial(run: TrialRun) -> None:
    """Fit, from where it was left, and test if asked to.

    Raises:
        UserError: the trial failed; its log says why.
    """
    from wavlm_lightning.workflows.fit import fit, test

    folder = Path(run.folder)
    folder.mkdir(parents=True, exist_ok=True)
    options = [*run.options, "--trainer.default_root_dir", run.folder]
    log = folder / "log.txt"
    # Our logger takes the names; W&B's own would take the folder of the process.
    settings = {"WANDB_RUN_GROUP": folder.parent.name, "WANDB_NAME": folder.name}
    with locked(folder / "lock", f"{folder} is still being run by another process; wait for it"), output_to(log):
        try:
            newest = folder / "checkpoints" / "last.ckpt"
            if not newest.exists():  # killed before it could write one: what else there is cannot be gone on with
                shutil.rmtree(newest.parent, ignore_errors=True)
            with environment(settings):
                resume = ["--ckpt_path", "last"] if newest.exists() else []
                fit(*options, *resume, callbacks=[ReportToSweep(run)])
            if run.scores and not run.given_up and not (folder / CARD_NAME).is_file():
                test(*options, "--ckpt_path", "best")
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise UserError(f"{folder} failed ({error}); see {log}") from error


@contextlib.contextmanager
def locked(path: Path, otherwise: str) -> Iterator[None]:
    """Hold a lock file, as no other process does.

    Args:
        path: the file.
        otherwise: what to say if another process holds it.

    Raises:
        UserError: another process does.
    """
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UserError(otherwise) from error
        yield


@contextlib.contextmanager
def environment(settings: dict[str, str]) -> Iterator[None]:
    """Set variables for a while."""
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
