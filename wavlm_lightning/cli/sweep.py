"""`wavlm sweep FILE --output DIR`: a W&B sweep file, run here without a server."""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavlm_lightning.workflows.sweep.file import SweepFile
    from wavlm_lightning.workflows.sweep.study import Trial

EPILOG = """what follows `--` is added to every trial's command and wins over what the file says:
  wavlm sweep configs/sweeps/superb/ks.yaml --output runs/sweep --test -- --model.upstream.source runs/mine --data.corpus data/ks

method grid tries everything, random draws, bayes (Optuna's TPE) draws near what was good; early_terminate gives hopeless
trials up. An interrupted sweep goes on with the same command; --trials may be raised. Trials are ranked by their best
validation. Results: trials.csv, and a run folder a trial, which `wavlm report DIR` shows if they were tested (--test).
"""


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="wavlm sweep",
        usage="wavlm sweep FILE --output DIR [options] [-- OPTIONS OF EVERY TRIAL]",
        description="Run a W&B sweep file here: no server, no account.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="the sweep file; configs/sweeps holds some")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the trials and their table")
    parser.add_argument(
        "--trials", type=_positive, help="how many; all of a grid, else run_cap of the file, if not given"
    )
    parser.add_argument("--jobs", type=_positive, help="trials at a time; one a GPU, or one a core (default)")
    parser.add_argument("--test", action="store_true", help="test every finished trial, too, and write its result card")
    parser.add_argument("--seed", type=int, default=0, help="of what is drawn (0)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are known beforehand and stop")
    parser.add_argument("--hosted", action="store_true", help="print how a W&B server runs the same file and stop")
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments, extra = parser.parse_args(argv[:cut]), argv[cut + 1 :]

    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.workflows.sweep.file import read_sweep

    sweep = read_sweep(arguments.file)
    if arguments.hosted:
        print(hosted(sweep, extra))
        return 0
    if "--trainer.default_root_dir" in {word.split("=")[0] for word in extra}:
        raise UserError("--trainer.default_root_dir: every trial has its own in the folder of the sweep; give --output")
    count = number_of_trials(sweep, arguments.trials)
    if arguments.dry_run:
        return dry_run(sweep, count, extra)
    if arguments.output is None:
        raise UserError("say where the trials go with --output DIR")
    return run(sweep, arguments, count, extra)


def run(sweep: SweepFile, arguments: argparse.Namespace, count: int, extra: list[str]) -> int:
    """Run what is left, and show what came of it even if something failed."""
    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.system.worker_pool import default_jobs
    from wavlm_lightning.workflows.sweep.study import SweepStudy
    from wavlm_lightning.workflows.sweep.table import command, ranked, ranking, write_trials
    from wavlm_lightning.workflows.sweep.trials import locked, run_trials

    folder: Path = arguments.output
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", f"another `wavlm sweep` is at work in {folder}; wait for it, or end it"):
        study = SweepStudy(folder, sweep, extra, arguments.seed)

        def done(trial: Trial | None) -> None:
            write_trials(folder, study.trials(), sweep, extra)
            if trial is not None:
                values = ", ".join(f"{name} {value}" for name, value in trial.values.items())
                print(f"{trial.folder_name} {trial.state}: {sweep.metric} {trial.value:.5g} ({values})", flush=True)

        jobs = arguments.jobs or default_jobs()
        failures = run_trials(study, folder, range(count), extra, jobs=jobs, scores=arguments.test, done=done)
        trials = study.trials()
        write_trials(folder, trials, sweep, extra)
    if best := ranked(trials, sweep):
        print(f"\n{ranking(trials, sweep)}\n")
        print(f"The best is {folder / best[0].folder_name / 'checkpoints' / 'best.ckpt'}; by itself:")
        print(f"  {command(best[0], sweep, extra, folder / 'best')}")
        print(hosted(sweep, extra))
    if failures:
        cut = "" if best else "; the sweep stops here, since none has succeeded"
        raise UserError(
            f"{len(failures)} of {count} trials failed{cut}; the same command tries them again: {failures[0]}"
        )
    return 0


def dry_run(sweep: SweepFile, count: int, extra: Sequence[str]) -> int:
    """Print the commands of a grid, or the one thing that can be said of drawn ones."""
    if sweep.method != "grid":
        print(f"{count} trials, their values drawn ({sweep.method}); the first words of each:")
        print(shlex.join(["wavlm", "fit", *sweep.options({}), *extra]))
        return 0
    for values in sweep.grid()[:count]:
        print(shlex.join(["wavlm", "fit", *sweep.options(values), *extra]))
    return 0


def number_of_trials(sweep: SweepFile, asked: int | None) -> int:
    """How many trials there are to be.

    Raises:
        UserError: nobody says.
    """
    from wavlm_lightning.system.errors import UserError

    if sweep.method == "grid":
        return min(len(sweep.grid()), asked or sweep.run_cap or len(sweep.grid()))
    if (count := asked or sweep.run_cap) is None:
        raise UserError(f"{sweep.path}: method {sweep.method} goes on for ever; say how many with --trials or run_cap")
    return count


def hosted(sweep: SweepFile, extra: Sequence[str]) -> str:
    """How a W&B server runs the same file."""
    lines = ["With a W&B account the same file runs on any number of machines:", f"  wandb sweep {sweep.path}"]
    lines.append("  wandb agent ENTITY/PROJECT/SWEEP      (as printed by the first; once a machine or GPU)")
    if extra:
        lines.append(f"  after adding to `command` in the file, before ${{args}}: {shlex.join(extra)}")
    return "\n".join(lines)


def _positive(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no number from 1 up")
    return int(word)
