"""`wavlm report RUNS... -o DIR`: results, curves and cost of runs on one page, with Markdown and CSV beside it."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path


def build_parser() -> argparse.ArgumentParser:
    """The options of `wavlm report`."""
    parser = argparse.ArgumentParser(
        prog="wavlm report",
        description="Results, layers, curves, learning rates and cost of any number of runs: report.html (one file, "
        "opens offline), report.md and report.csv.",
    )
    runs = "run folders, folders of run folders, or card files"
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help=runs)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR", help="folder of the report")
    two = "two upstreams, by the names of their rows, to compare metric by metric; default if there are exactly two"
    parser.add_argument("--compare", nargs=2, metavar=("A", "B"), help=two)
    reference = "the upstream that the others are compared with; default: random weights, or else FBANK"
    parser.add_argument("--control", metavar="NAME", help=reference)
    parser.add_argument("--title", help="title of the page; default: the name of the folder of the runs")
    seeds = "encoders whose labels differ only by a number at the end (full-0, full-1) are seeds of one: show the mean"
    parser.add_argument("--group-seeds", action="store_true", help=seeds)
    return parser


def main(argv: list[str]) -> int:
    """Run `wavlm report`."""
    arguments = build_parser().parse_args(argv)

    from wavlm_lightning.workflows.report import write_report

    compare = tuple(arguments.compare) if arguments.compare else None
    page, problems = write_report(
        arguments.runs,
        arguments.output,
        compare=compare,
        group_seeds=arguments.group_seeds,
        title=arguments.title,
        control=arguments.control,
    )
    for problem in problems:
        print(f"wavlm report: {problem}", file=sys.stderr)
    print(f"written: {page}, with report.md and report.csv beside it")
    return 0
