"""`wavlm demo`: from an empty folder to a pre-trained encoder, scored and reported."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from wavlm_lightning.system.arguments import whole


def build_parser() -> argparse.ArgumentParser:
    """The options of `wavlm demo`."""
    parser = argparse.ArgumentParser(
        prog="wavlm demo",
        description="Make the mini corpus, pre-train a tiny WavLM, train and test three heads on three upstreams, report. "
        "A second call skips finished stages; an interrupted call continues where it stopped.",
    )
    parser.add_argument("--out", type=Path, default=Path("runs/demo"), help="folder for everything")
    sizes = ("tiny", "mini", "medium", "pretrain")
    parser.add_argument("--size", choices=sizes, help="of the mini corpus (default: of configs/pretrain/tiny.yaml)")
    parser.add_argument("--steps", type=whole, help="updates of pre-training (default: of configs/pretrain/tiny.yaml)")
    parser.add_argument("--head-steps", type=whole, help="updates of each head (default: of configs/superb/mini)")
    parser.add_argument("--seed", type=int, default=0, help="of corpus and pre-training")
    return parser


def main(argv: list[str]) -> int:
    """Run `wavlm demo`."""
    arguments = build_parser().parse_args(argv)

    from wavlm_lightning.workflows.demo import run_demo

    begin = time.perf_counter()
    page = run_demo(arguments.out, arguments.size, arguments.steps, arguments.head_steps, arguments.seed)
    print(f"done in {time.perf_counter() - begin:.0f} s: open {page}")
    return 0
