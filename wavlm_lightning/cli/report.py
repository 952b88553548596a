"""`wavlm report RUNS... -o DIR`: what runs have come to, as one page to show, with Markdown and CSV beside it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavlm_lightning.reports.cards import ResultCard


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="wavlm report",
        description="Results, layers, curves, learning rates and cost of any number of runs: report.html (one file, "
        "opens offline), report.md and report.csv.",
    )
    parser.add_argument(
        "runs", nargs="+", type=Path, metavar="RUNS", help="run folders, folders of run folders, or card files"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the report")
    parser.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="two upstreams, by the names of their rows, to set side by side; done by itself where there are just two",
    )
    parser.add_argument(
        "--group-seeds",
        action="store_true",
        help="encoders whose labels differ only by a number at the end (full-0, full-1) are seeds of one: show their mean",
    )
    arguments = parser.parse_args(argv)

    from wavlm_lightning.reports.runs.report import write_run_report

    compare = tuple(arguments.compare) if arguments.compare else None
    page, problems = write_run_report(arguments.runs, arguments.output, reservation, compare, arguments.group_seeds)
    for problem in problems:
        print(f"wavlm report: {problem}", file=sys.stderr)
    print(f"written: {page}, with report.md and report.csv beside it")
    return 0


def reservation(card: ResultCard) -> str | None:
    """Why a card must not be compared with the published ones, None if it may be; without its corpus nobody can tell."""
    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.workflows.superb.official import CORPORA, is_official

    if card.task not in CORPORA:
        return f"{card.task} is none of SUPERB's ten tasks"
    try:
        return is_official(card)
    except UserError:
        return f"the corpus of {card.task} is no longer there to be checked"
