"""`wavlm average RUN --out DIR`: the mean of the weights of a run's last checkpoints."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.system.arguments import whole


def build_parser() -> argparse.ArgumentParser:
    """The parser of `wavlm average`."""
    parser = argparse.ArgumentParser(
        prog="wavlm average",
        description="Average the weights of a run's last checkpoints, which `wavlm fit --keep_checkpoints N` keeps. The result "
        "is a run folder for test, predict, export and model.start_from. Statistics of batch norms and what is fitted on "
        "the validation split are computed anew.",
    )
    parser.add_argument("sources", type=Path, nargs="+", metavar="RUN", help="a run folder, or checkpoints of one run")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the new run folder")
    parser.add_argument("--last", type=whole, metavar="N", help="the newest N kept checkpoints; all by default")
    batches = "training batches for the statistics of batch norms"
    parser.add_argument("--batches", type=whole, default=100, help=batches)
    alone = "average alone: no validation, and averaged statistics of batch norms"
    parser.add_argument("--no-data", action="store_false", dest="use_data", help=alone)
    return parser


def main(argv: list[str]) -> int:
    """Average, and print what was averaged and its figure on validation."""
    options = vars(build_parser().parse_args(argv))
    from wavlm_lightning.workflows.average import average

    done = average(**options)
    print(f"{done.run}: mean of updates {', '.join(f'{step:,}' for step in done.steps)}")
    if done.value is not None:
        print(f"{done.metric} {done.value:.4f}")
    for name, value in done.fitted.items():
        print(f"fitted on validation: {name} {value}")
    return 0
