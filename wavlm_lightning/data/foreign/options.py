"""Arguments that the formats of `wavlm prepare` share: where the corpus goes, what is held out, what happens at a fault."""

from __future__ import annotations

import argparse
from pathlib import Path

HELD_OUT = 0.05  # default share of validation, and of test


def add_writing(parser: argparse.ArgumentParser) -> None:
    """`--out`, `--on-error` and `--workers`: how the corpus is written."""
    parser.add_argument("--out", type=Path, required=True, help="the corpus folder to make")
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop", help="when a file cannot be used")
    parser.add_argument("--workers", type=int, help="processes; one per core by default")


def add_division(parser: argparse.ArgumentParser) -> None:
    """`--valid`, `--test`, `--split-by`, `--label-columns`, `--name` and `--licence`: what is held out and what is a label."""
    parser.add_argument("--valid", type=float, default=HELD_OUT, help="share held out for validation (default 0.05)")
    parser.add_argument("--test", type=float, default=HELD_OUT, help="share held out for test (default 0.05)")
    units = ("auto", "speaker", "file")
    whole = "what is held out as a whole; auto: speakers where they are known and enough"
    parser.add_argument("--split-by", choices=units, default="auto", help=whole)
    labels = "columns whose values become a label set of that name, for heads of your own"
    parser.add_argument("--label-columns", nargs="+", default=[], metavar="COLUMN", help=labels)
    parser.add_argument("--name", help="name of the corpus; that of the folder by default")
    parser.add_argument("--licence", default="unknown", help="terms of use, kept in corpus.json")
