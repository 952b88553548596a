"""Results of a sweep: `trials.csv`, a ranking as text, and the command of one trial."""

from __future__ import annotations

import csv
import math
import shlex
from collections.abc import Sequence
from pathlib import Path

from wavlm_lightning.system.files import atomic_write
from wavlm_lightning.workflows.sweep.file import SweepFile
from wavlm_lightning.workflows.sweep.study import ENDED, Trial

TABLE = "trials.csv"


def ranked(trials: Sequence[Trial], sweep: SweepFile) -> list[Trial]:
    """The trials that are done or given up, best first."""
    sign = 1 if sweep.goal == "minimize" else -1
    ended = [(sign * t.value, t.slot, t) for t in trials if t.state in ENDED and t.value is not None]
    return [trial for *_, trial in sorted(ended, key=lambda row: row[:2])]


def write_trials(folder: Path, trials: Sequence[Trial], sweep: SweepFile, extra: Sequence[str]) -> None:
    """Write `trials.csv`: every trial that was begun, its best value and the validation that gave it.

    Args:
        folder: folder of the sweep.
        trials: the rows.
        sweep: the sweep file.
        extra: further options of every trial.
    """
    names = [parameter.name for parameter in sweep.parameters]
    with atomic_write(folder / TABLE) as temporary, temporary.open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["trial", "state", sweep.metric, "best_validation", "validations", *names, "command"])
        for trial in trials:
            best = next((step for step, value in sorted(trial.reported.items()) if value == trial.value), None)
            row = [trial.folder_name, trial.state, trial.value, best, len(trial.reported)]
            values = [trial.values[name] for name in names]
            table.writerow([*row, *values, command(trial, sweep, extra, folder / trial.folder_name)])


def command(trial: Trial, sweep: SweepFile, extra: Sequence[str], folder: Path) -> str:
    """The command that runs one trial alone.

    Args:
        trial: the trial.
        sweep: the sweep file.
        extra: further options of every trial.
        folder: run folder.
    """
    options = [*sweep.options(trial.values), *extra, "--trainer.default_root_dir", str(folder)]
    return shlex.join(["wavlm", "fit", *options])


def ranking(trials: Sequence[Trial], sweep: SweepFile, most: int = 10) -> str:
    """The best trials as a text table.

    Args:
        trials: all trials.
        sweep: the sweep file.
        most: maximum number of rows.
    """
    names = [parameter.name for parameter in sweep.parameters if len(parameter.values) != 1]
    order = ranked(trials, sweep)
    rows = [["", "trial", sweep.metric, *names, "state"]]
    for place, trial in enumerate(order[:most], start=1):
        assert trial.value is not None
        value = f"{trial.value:.5g}" if math.isfinite(trial.value) else "not finite"
        shown = [f"{v:.4g}" if isinstance(v, float) else str(v) for v in (trial.values[name] for name in names)]
        rows.append([str(place), trial.folder_name, value, *shown, trial.state])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(word.ljust(width) for word, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    if len(order) > most:
        lines.append(f"... and {len(order) - most} more in {TABLE}")
    return "\n".join(lines)
