"""`wavlm superb UPSTREAM... --data mini|DIR --output DIR`: the benchmark, any subset of tasks, one table."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from wavlm_lightning.workflows.superb.cells import Cell

EPILOG = """upstreams:
  runs/demo/pretrain           a pre-training run, a .ckpt, a Hugging Face folder, a unilm or fairseq .pt
  tiny, base, base_plus, large, hubert_base, hubert_large: random weights
  fbank, mfcc                  spectral features (without CMVN where a head averages over time)
  hf:NAME_OR_FOLDER            wav2vec 2.0, HuBERT, WavLM, data2vec, ... through transformers
  torchaudio:HUBERT_BASE       a torchaudio pipeline
  package.module.Class         an Upstream of your own
  LABEL=ANY_OF_THESE           what tables call it
"""


def main(argv: list[str]) -> int:
    """Parse and run."""
    parser = argparse.ArgumentParser(
        prog="wavlm superb",
        description="Train and test SUPERB's heads on frozen encoders. Runs that have a card are not repeated; an "
        "interrupted call goes on where it stopped.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("upstreams", nargs="+", metavar="UPSTREAM", help="see below")
    parser.add_argument(
        "--data", required=True, help="mini (made in the output folder), or a folder of corpora from `wavlm prepare`"
    )
    parser.add_argument("--output", type=Path, required=True, help="folder for runs, cards and the table")
    parser.add_argument("--tasks", nargs="+", metavar="TASK", help="pr asr ks ic sid er qbe sf sv sd; all by default")
    parser.add_argument(
        "--search",
        nargs="*",
        type=float,
        metavar="RATE",
        help="try these learning rates, the official grid if none is named, and keep the best on validation; all rates of "
        "a task are trained in one pass",
    )
    parser.add_argument("--steps", type=_positive, help="updates of every head, instead of the configurations'")
    parser.add_argument("--size", default="mini", choices=("tiny", "mini"), help="of the mini corpus")
    parser.add_argument("--jobs", type=_positive, help="runs at a time; one a GPU, or one a core (default)")
    parser.add_argument("--dry-run", action="store_true", help="print the commands and stop")
    arguments = parser.parse_args(argv)

    from wavlm_lightning.workflows.superb.cells import check_tasks, parse_upstreams, plan_cell

    upstreams, tasks = parse_upstreams(arguments.upstreams), check_tasks(arguments.tasks)
    out, data = arguments.output, Path(arguments.data)
    if arguments.data == "mini":
        data = out / "corpus"
    mini = arguments.data == "mini" or is_mini(data)
    cells = [
        plan_cell(task, upstream, data, out, mini=mini, rates=rates(arguments.search, task), steps=arguments.steps)
        for task in tasks
        for upstream in upstreams
    ]
    if arguments.dry_run:
        for run in (run for cell in cells for run in cell.runs):
            for verb in ("fit", "test") if run.fits else ("test",):
                end = ["--ckpt_path", "best"] if run.fits and verb == "test" else []
                print(shlex.join(["wavlm", verb, *run.options, "--trainer.default_root_dir", str(run.folder), *end]))
        return 0
    return score(arguments, cells, tasks, data, mini)


def score(arguments: argparse.Namespace, cells: list[Cell], tasks: list[str], data: Path, mini: bool) -> int:
    """Run everything, and write the tables of whatever was finished even if something failed."""
    from wavlm_lightning.system.errors import UserError
    from wavlm_lightning.system.worker_pool import default_jobs
    from wavlm_lightning.workflows.superb.cells import check_corpora, corpus_name
    from wavlm_lightning.workflows.superb.scores import check_cells, run_cells, settle, write_tables

    if arguments.data == "mini":
        from wavlm_lightning.data.mini import prepare_mini

        prepare_mini(data, arguments.size, list(dict.fromkeys(corpus_name(task, mini) for task in tasks)))
    check_corpora(tasks, data, mini)
    check_cells(cells)
    failures: list[UserError] = []
    try:
        run_cells(cells, arguments.jobs or default_jobs())
    except UserError as error:
        failures.append(error)
    cards = {}
    for cell in cells:
        try:
            if (card := settle(cell)) is not None:
                cards[cell.task, cell.upstream.label] = card
        except UserError as error:
            failures.append(error)
    if cards:
        print(write_tables(arguments.output, cards, mini, complete=not failures and arguments.steps is None))
    if failures:
        raise failures[0]
    return 0


def _positive(word: str) -> int:
    if not word.isdigit() or int(word) < 1:
        raise argparse.ArgumentTypeError(f"{word!r} is no number from 1 up")
    return int(word)


def is_mini(data: Path) -> bool:
    """Whether a folder of corpora was made by `wavlm prepare mini`.

    Raises:
        UserError: it holds no corpora.
    """
    from wavlm_lightning.data.corpus import Corpus
    from wavlm_lightning.system.errors import UserError

    found = sorted(data.glob("*/corpus.json"))
    if not found:
        raise UserError(f"--data {data}: no corpora there; make them with `wavlm prepare`, or use --data mini")
    return all(Corpus.open(path.parent).body["source"].get("recipe") == "mini" for path in found)


def rates(search: list[float] | None, task: str) -> list[float] | None:
    """The learning rates to try: None for that of the configuration."""
    from wavlm_lightning.workflows.superb.cells import official_rates

    if search is None or task == "qbe":
        return None
    return search or official_rates(task)
