"""`wavlm superb UPSTREAM... --data mini|DIR --output DIR`: the benchmark, any list of tasks, one table."""

from __future__ import annotations

import argparse
from pathlib import Path

from wavlm_lightning.system.arguments import whole

EPILOG = """upstreams:
  runs/demo/pretrain           a pre-training run, a .ckpt, a Hugging Face folder, a unilm or fairseq .pt
  random:base                  random weights; also random:tiny, base_plus, large, hubert_base, hubert_large,
                               tiny_mel, tiny_wide
  fbank, mfcc, stft            spectral features (fbank and mfcc without CMVN where a head averages over time)
  hf:NAME_OR_FOLDER            wav2vec 2.0, HuBERT, WavLM, data2vec, ... through transformers
  torchaudio:HUBERT_BASE       a torchaudio pipeline
  package.module.Class         an Upstream of your own
  LABEL=ANY_OF_THESE           its name in tables
"""


def build_parser() -> argparse.ArgumentParser:
    """The options of `wavlm superb`."""
    parser = argparse.ArgumentParser(
        prog="wavlm superb",
        description="Train and test heads on an encoder, which is frozen unless the task's YAML says otherwise. Runs that have a "
        "card are not repeated; an interrupted call continues where it stopped.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("upstreams", nargs="+", metavar="UPSTREAM", help="see below")
    data = "mini (made in the output folder), or a folder of corpora from `wavlm prepare`"
    parser.add_argument("--data", required=True, help=data)
    parser.add_argument("--output", type=Path, required=True, help="folder for runs, cards and the table")
    suites = "all tasks of: superb (the ten of the benchmark, the default), full (those of configs/fullstack as well)"
    parser.add_argument("--suite", choices=("superb", "full"), help=suites)
    tasks = (
        "pr asr ks ic sid er qbe sf sv sd, any of configs/fullstack, or the YAML of a task of your own; all by default"
    )
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help=tasks)
    controls = "further rows: chance, and permuted (the first upstream on labels of other utterances)"
    parser.add_argument("--controls", nargs="+", default=[], metavar="ROW", help=controls)
    rates = (
        "learning rates to try in one pass a task, of which the best on validation counts; none: the official grid, and the "
        "configuration's rate for tasks without one"
    )
    parser.add_argument("--search", nargs="*", type=float, metavar="RATE", help=rates)
    parser.add_argument("--steps", type=whole, help="updates of every head, instead of the configurations'")
    parser.add_argument("--size", choices=("tiny", "mini"), help="of the corpora of --data mini (default: mini)")
    parser.add_argument("--jobs", type=whole, help="runs at a time; by default one per GPU, or one per core")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    return parser


def main(argv: list[str]) -> int:
    """Run `wavlm superb`."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.size is not None and arguments.data != "mini":
        parser.error("--size is of the corpora that --data mini makes; remove it")

    from wavlm_lightning.workflows.superb import run_superb, superb_commands

    cells = (arguments.upstreams, arguments.data, arguments.output, arguments.tasks, arguments.search, arguments.steps)
    which = {"suite": arguments.suite, "controls": arguments.controls}
    if arguments.dry_run:
        print("\n".join(superb_commands(*cells, **which)))
        return 0
    board = run_superb(*cells, **which, size=arguments.size or "mini", jobs=arguments.jobs)
    if board.cards:
        print(board.text)
    if board.failures:
        raise board.failures[0]
    return 0
