"""Runs the trials of a sweep: several at a time, each in its own folder, each resumed where it stopped; ranks the results."""

from __future__ import annotations

import contextlib
import csv
import os
import shlex
import sys
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from itertools import islice
from pathlib import Path
from unittest import mock

from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.tables import ARROWS
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import atomic_write, check_output, locked, sweep_leftovers
from wavlm_lightning.system.progress import progress_bar, say
from wavlm_lightning.system.run_folder import BEST, CARD, checkpoint
from wavlm_lightning.system.worker_pool import output_to, run_count, worker_pool
from wavlm_lightning.workflows.fit.head_runs import is_tested
from wavlm_lightning.workflows.fit.ownership import resumption
from wavlm_lightning.workflows.sweep.checks import check_trials
from wavlm_lightning.workflows.sweep.file import WANDB_KEYS, SweepFile
from wavlm_lightning.workflows.sweep.study import ENDED, JOURNAL, SweepStudy, Trial, is_given_up, open_study

TABLE = "trials.csv"
TOO_MANY = 3  # failures without a success: the cause is then not the values of one trial, so the sweep stops


def run_sweep(
    sweep: SweepFile,
    output: Path,
    extra: Sequence[str] = (),
    *,
    trials: int | None = None,
    jobs: int | None = None,
    test: bool = False,
    seed: int = 0,
) -> list[Trial]:
    """Run the trials of a sweep that are not done yet, print their results, and write `trials.csv`.

    Args:
        sweep: the sweep file, see `read_sweep`.
        output: folder of the sweep; one run folder per trial is created in it.
        extra: further options of every trial, which override the sweep file.
        trials: number of trials; None for the whole grid or `run_cap` of the file.
        jobs: number of trials at a time; None for one per GPU or core.
        test: test the best checkpoint of every trial and write its result card.
        seed: seed of the drawn values.

    Returns:
        The trials that are done or given up, best first.

    Raises:
        UserError: trials failed; the others are finished and in the table.

    Example:
        >>> best, *others = run_sweep(read_sweep("configs/sweeps/pretrain.yaml"), Path("runs/sweep"), trials=8)
    """
    check_output(output, "--output")
    _check_options(extra)
    count = sweep.trial_count(trials)
    check_trials(sweep, extra)
    output.mkdir(parents=True, exist_ok=True)
    with locked(output / "lock", f"another `wavlm sweep` is running in {output}; wait for it, or stop it"):
        sweep_leftovers(output)
        for left in output.glob(f"{JOURNAL}.lock*.rename"):  # of Optuna's lock, if it was killed while it let go
            left.unlink(missing_ok=True)
        study = SweepStudy(output, sweep, extra, seed)
        failures = _run_trials(study, range(count), extra, run_count(jobs), test)
        if test:
            failures += _test_untested(study, extra, run_count(jobs))
        found = study.trials()
        write_trials(output, found, sweep, extra)
    best = ranked(found, sweep)
    mark_chosen(output, best, sweep)
    if best:
        print(f"\n{ranking(found, sweep)}\n")
        print(f"The best is {checkpoint(output / best[0].folder_name, BEST)}; to run it alone:")
        print(f"  {command(best[0], sweep, extra, output / 'best')}")
        print(instructions(sweep, extra))
    if failures:
        stopped = "" if best else "; the sweep stops here because no trial has succeeded"
        failed = f"{len(failures)} of {count} trials failed{stopped}"
        raise UserError(f"{failed}; the same command tries them again: {failures[0]}")
    return best


def mark_chosen(folder: Path, trials: Sequence[Trial], sweep: SweepFile) -> None:
    """Write on the card of the best trial among how many it was chosen, if the trials were tested."""
    for place, trial in enumerate(trials):
        path = folder / trial.folder_name / sweep.head / CARD
        if not path.is_file():
            continue
        card = ResultCard.read(path)
        split = "" if card.selection is None else card.selection["split"]
        before = card.rates_tried or 1, card.chosen_on
        card.rates_tried, card.chosen_on = (1, "") if place else (len(trials), split)
        if (card.rates_tried, card.chosen_on) != before:
            card.write(path)


def _run_trials(study: SweepStudy, slots: Sequence[int], extra: Sequence[str], jobs: int, test: bool) -> list[str]:
    """Run the trials of `slots` that have not ended; returns one sentence for each that failed."""
    ended = {trial.slot for trial in study.trials() if trial.state in ENDED}
    left = [slot for slot in slots if slot not in ended]
    failures: list[str] = []
    running: dict[Future[None], Trial] = {}
    succeeded = bool(ended)
    if not left:
        return failures
    counted = progress_bar(total=len(slots), initial=len(slots) - len(left), desc="sweep", unit="trial")
    with counted as bar, worker_pool(min(jobs, len(left))) as pool:
        while left or running:
            while left and len(running) < jobs:  # values are drawn one by one: a trial knows all results before it
                trial = study.begin(left.pop(0))
                options = (*study.sweep.options(trial.values), *extra)
                running[pool.submit(run_trial, study.folder, study.sweep, trial, options, test)] = trial
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = running.pop(future)
                if (error := future.exception()) is not None and not isinstance(error, UserError):
                    raise error
                try:
                    if error is not None:
                        study.fail(trial)
                        raise error
                    trial = study.end(trial)
                    succeeded = True
                    values = ", ".join(f"{name} {value}" for name, value in trial.values.items())
                    result = f"{study.sweep.metric} {trial.text}"
                    say(f"{trial.folder_name} {trial.state}: {result} ({values})", sys.stdout)
                except UserError as failure:
                    failures.append(str(failure))
                bar.update()
                write_trials(study.folder, study.trials(), study.sweep, extra)
            if len(failures) >= TOO_MANY and not succeeded:
                left.clear()
    return failures


def _test_untested(study: SweepStudy, extra: Sequence[str], jobs: int) -> list[str]:
    """Test the trials that an earlier call, without `--test`, has trained; returns one sentence for each that failed."""
    trials = [trial for trial in study.trials() if trial.state == "done"]
    untested = [trial for trial in trials if not is_tested(study.folder / trial.folder_name / study.sweep.head)]
    failures: list[str] = []
    if not untested:
        return failures
    with (
        progress_bar(total=len(untested), desc="tests", unit="trial") as bar,
        worker_pool(min(jobs, len(untested))) as pool,
    ):
        options = {trial.slot: (*study.sweep.options(trial.values), *extra) for trial in untested}
        for future in [pool.submit(score_trial, study.folder, trial, options[trial.slot]) for trial in untested]:
            try:
                future.result()
            except UserError as error:
                failures.append(str(error))
            bar.update()
    return failures


def score_trial(sweep_folder: Path, trial: Trial, options: Sequence[str]) -> None:
    """Test the best checkpoint of a trial that has been trained; output goes to its `log.txt`."""
    from wavlm_lightning.workflows.fit import test

    folder = sweep_folder / trial.folder_name
    with _logged(folder):
        test(*options, "--trainer.default_root_dir", str(folder), "--ckpt_path", BEST)


@contextlib.contextmanager
def _logged(folder: Path) -> Iterator[None]:
    """Own the folder of a trial and send all output to its `log.txt`; what goes wrong becomes a sentence that names it."""
    log = folder / "log.txt"
    with locked(folder / "lock", f"another process still runs {folder}; wait for it"), output_to(log):
        try:
            yield
        except (Exception, SystemExit) as error:
            traceback.print_exc()
            raise UserError(f"{folder} failed ({error}); see {log}") from error


def run_trial(sweep_folder: Path, sweep: SweepFile, trial: Trial, options: Sequence[str], test: bool) -> None:
    """Train a trial, resuming from its last checkpoint, and test it if asked to; output goes to its `log.txt`."""
    from wavlm_lightning.workflows.fit import fit
    from wavlm_lightning.workflows.fit import test as score
    from wavlm_lightning.workflows.sweep.pruning import ReportToSweep

    folder = sweep_folder / trial.folder_name
    folder.mkdir(parents=True, exist_ok=True)
    options = [*options, "--trainer.default_root_dir", str(folder)]
    # Our own W&B logger names runs like this; W&B's logger would take the working directory's name.
    names = {**sweep.wandb_names, "WANDB_RUN_GROUP": sweep_folder.name, "WANDB_NAME": folder.name}
    with _logged(folder):
        resume = resumption(folder)
        with mock.patch.dict(os.environ, names):
            fit(*options, *resume, callbacks=[ReportToSweep(sweep_folder, sweep, trial.number)])
            pruned = is_given_up(open_study(sweep_folder, sweep), trial.number)
            if test and not pruned and not is_tested(folder / sweep.head):
                score(*options, "--ckpt_path", BEST)


def dry_run(sweep: SweepFile, extra: Sequence[str] = (), trials: int | None = None) -> list[str]:
    """The commands of a grid; of drawn trials, whose values are not known yet, the common part of their commands.

    Raises:
        UserError: an option, a value or a metric does not exist, see `check_trials`.
    """
    lines = commands(sweep, extra, trials)
    check_trials(sweep, extra, here=False)
    return lines


def commands(sweep: SweepFile, extra: Sequence[str] = (), trials: int | None = None) -> list[str]:
    """What `dry_run` lists, unchecked."""
    _check_options(extra)
    count = sweep.trial_count(trials)
    grid = islice(sweep.grid(), count) if sweep.method == "grid" else [{}]
    lines = [shlex.join(["wavlm", "fit", *sweep.options(values), *extra]) for values in grid]
    if sweep.method == "grid":
        return lines
    return [f"{count} trials with drawn values ({sweep.method}); each command begins with:", *lines]


def _check_options(extra: Sequence[str]) -> None:
    if "--trainer.default_root_dir" in {word.split("=")[0] for word in extra}:
        raise UserError("--trainer.default_root_dir: every trial has its own in the folder of the sweep; give --output")


def hosted(sweep: SweepFile, extra: Sequence[str] = ()) -> str:
    """Instructions for running the same file with a W&B server.

    Raises:
        UserError: an option does not exist, or the trials would train heads on random weights that nobody asked for.
    """
    check_trials(sweep, extra, here=False, chosen=True)
    return instructions(sweep, extra)


def instructions(sweep: SweepFile, extra: Sequence[str] = ()) -> str:
    """What `hosted` says, unchecked."""
    given = {key: str(sweep.body[key]) for key in WANDB_KEYS if sweep.body.get(key) is not None}
    words = ["wandb", "sweep", *(word for key, value in given.items() for word in (f"--{key}", value)), str(sweep.path)]
    place = "/".join(shlex.quote(given.get(key, key.upper())) for key in ("entity", "project"))
    text = f"""With a W&B account the same file runs on any number of machines:
  {shlex.join(words)}
  wandb agent {place}/SWEEP      (printed by the first command; once per machine or GPU)"""
    added = f"\n  after adding to `command` in the file, before ${{args}}: {shlex.join(extra)}"
    return text + added if extra else text


def ranked(trials: Sequence[Trial], sweep: SweepFile) -> list[Trial]:
    """The trials that are done or given up, best first."""
    sign = 1 if sweep.goal == "minimize" else -1
    ended = [(sign * t.value, t.slot, t) for t in trials if t.state in ENDED and t.value is not None]
    return [trial for *_, trial in sorted(ended, key=lambda row: row[:2])]


def write_trials(folder: Path, trials: Sequence[Trial], sweep: SweepFile, extra: Sequence[str]) -> None:
    """Write `trials.csv`: every trial that was begun, its best value (as logged, and in its unit), and that validation."""
    names = [parameter.name for parameter in sweep.parameters]
    with atomic_write(folder / TABLE) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", sweep.metric, "shown", "best_validation", "validations", *names, "command"])
        for trial in trials:
            best = next((step for step, value in sorted(trial.reported.items()) if value == trial.value), None)
            row = [trial.folder_name, trial.state, trial.value, trial.text, best, len(trial.reported)]
            values = [trial.values[name] for name in names]
            table.writerow([*row, *values, command(trial, sweep, extra, folder / trial.folder_name)])


def command(trial: Trial, sweep: SweepFile, extra: Sequence[str], folder: Path) -> str:
    """The command that runs one trial alone, in a run folder of its own."""
    options = [*sweep.options(trial.values), *extra, "--trainer.default_root_dir", str(folder)]
    return shlex.join(["wavlm", "fit", *options])


def ranking(trials: Sequence[Trial], sweep: SweepFile, most: int = 10) -> str:
    """The best trials as a text table of at most `most` rows."""
    names = [parameter.name for parameter in sweep.parameters if len(parameter.values) != 1]
    order = ranked(trials, sweep)
    arrow = ARROWS["lower" if sweep.goal == "minimize" else "higher"]
    rows = [["", "trial", f"{sweep.metric} {arrow}", *names, "state"]]
    for place, trial in enumerate(order[:most], start=1):
        shown = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in (trial.values[name] for name in names)]
        rows.append([str(place), trial.folder_name, trial.text, *shown, trial.state])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(order) > most:
        lines.append(f"... and {len(order) - most} more in {TABLE}")
    return "\n".join(lines)
