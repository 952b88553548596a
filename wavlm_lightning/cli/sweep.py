"""`wavlm sweep FILE --output DIR`: run a W&B sweep file here, without a server."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.system.arguments import whole

EPILOG = """what follows `--` is added to every trial's command and overrides the file:
  wavlm sweep configs/sweeps/superb/ks.yaml --output runs/sweep --test -- --model.upstream.source runs/mine --data.corpus data/ks

method grid tries all combinations, random draws, bayes (Optuna's TPE) draws near good results; early_terminate ends
hopeless trials. The same command resumes an interrupted sweep; --trials may be raised. Trials are ranked by their best
validation. Results: trials.csv, and a run folder per trial, which `wavlm report DIR` shows if it was tested (--test).
"""


def build_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(
        prog="wavlm sweep",
        usage="wavlm sweep FILE --output DIR [options] [-- OPTIONS OF EVERY TRIAL]",
        description="Run a W&B sweep file here: no server, no account.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("file", metavar="FILE", help="the sweep file; examples are in configs/sweeps")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the trials and their table")
    parser.add_argument("--trials", type=whole, help="number of trials (default: the grid, or the file's run_cap)")
    parser.add_argument("--jobs", type=whole, help="trials at a time (default: one per GPU, or per core without GPUs)")
    parser.add_argument("--test", action="store_true", help="also test every finished trial and write its result card")
    parser.add_argument("--seed", type=int, default=0, help="seed of the drawn values (0)")
    parser.add_argument("--project", help="W&B project of the trials, instead of the file's `project`")
    parser.add_argument("--entity", help="W&B user or team, instead of the file's `entity`")
    parser.add_argument("--dry-run", action="store_true", help="print the commands that are known beforehand and stop")
    parser.add_argument("--hosted", action="store_true", help="print how a W&B server runs the same file and stop")
    return parser


def main(argv: list[str]) -> int:
    """Run the sweep, or print what it would run."""
    cut = argv.index("--") if "--" in argv else len(argv)
    arguments, extra = build_parser().parse_args(argv[:cut]), argv[cut + 1 :]

    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.workflows.sweep.file import read_sweep
    from wavlm_lightning.workflows.sweep.runs import dry_run, hosted, run_sweep

    sweep = read_sweep(arguments.file, arguments.project, arguments.entity)
    if arguments.hosted:
        print(hosted(sweep, extra))
    elif arguments.dry_run:
        print("\n".join(dry_run(sweep, extra, arguments.trials)))
    elif arguments.output is None:
        raise UserError("name the folder of the trials with --output DIR")
    else:
        settings = {name: getattr(arguments, name) for name in ("trials", "jobs", "test", "seed")}
        run_sweep(sweep, arguments.output, extra, **settings)
    return 0
