"""Who speaks when, over whom, and the one you asked for: every task, every control, by one command that goes on where it stopped.

    python experiments/full_stack_speakers/run.py --out runs/full_stack --speech ../shared/speech

Two encoders that differ in utterance mixing alone (`experiments/ablations`), then the tasks of `configs/fullstack` on the
mini corpora: FBANK, random weights, pre-trained, pre-trained without mixing, pre-trained on permuted labels, chance. Where a
card has oracle figures (`oracle` in their names), they get a table. `--speech` adds dialogues and mixtures cut from recordings
of two real speakers, tested by the heads that were trained on synthetic speech. Writes `result.md` and `result.csv`.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from real_voices import make, read_clips
from rows import ORACLE, RANDOM, Cards, failed, figures, pretrain, test_heads, write_csv

from wavlm_lightning.reports.tables import duration
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.superb import run_superb

ROWS = {RANDOM: "random weights", "fbank": "FBANK"}
TASKS = (
    "osd",
    "diarization",
    "pvad",
    "tse",
    "ts_asr",
    "mos",
    "mos_listeners",
)  # of configs/fullstack: who speaks, and how well


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/full_stack"))
    parser.add_argument("--speech", type=Path, help="recordings of two real speakers, with manifest.csv")
    parser.add_argument(
        "--encoder", type=Path, help="a run of the demo's recipe for the row `pre-trained`, of as many updates"
    )
    parser.add_argument("--updates", type=int, default=1000, help="of each pre-training (%(default)s)")
    parser.add_argument("--tasks", nargs="+", help=f"{', '.join(TASKS)} by default")
    parser.add_argument("--steps", type=int, help="updates of every head, instead of the configurations'")
    parser.add_argument("--size", default="mini", choices=("tiny", "mini"), help="of the corpora")
    parser.add_argument("--real", type=int, default=40, help="dialogues, and mixtures, of real voices (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tasks = arguments.tasks or list(TASKS)
    if arguments.speech is not None:  # refused now, not after the training
        read_clips(arguments.speech, np.random.default_rng(0))
    seconds, begin = {}, time.monotonic()

    def passed(stage: str) -> None:
        nonlocal begin
        seconds[stage], begin = time.monotonic() - begin, time.monotonic()

    encoders = pretrain(out, arguments.updates, arguments.encoder, arguments.size)
    passed("pre-training")
    upstreams = [f"{label}={folder}" for label, folder in encoders.items()]
    upstreams += [f"{label}={spec}" for spec, label in ROWS.items()]
    more = {"controls": ["chance", "permuted"], "size": arguments.size, "jobs": arguments.jobs}
    board = run_superb(upstreams, "mini", out / "suite", tasks, steps=arguments.steps, **more)
    passed("heads")
    parts: dict[str, Cards] = {"mini": board.cards}
    failures = list(board.failures)
    if arguments.speech is not None:
        corpora = make(arguments.speech, out / "real", arguments.real)
        heads = out / "real" / "heads"
        parts["real voices"], missing = test_heads(heads, out / "suite", board.folders, corpora, arguments.jobs)
        failures += missing
        passed("real voices")
    lines = [board.text.rpartition("\n\n")[0]]
    titles = {"Oracles": figures(board.cards, ORACLE)}
    if "real voices" in parts:
        titles["Real voices, heads trained on synthetic speech"] = figures(parts["real voices"])
        titles["Real voices, oracles"] = figures(parts["real voices"], ORACLE)
    for title, table in titles.items():
        lines += [f"## {title}", table.to_markdown()] if table is not None else []
    lines += failed(failures)
    lines.append("Wall time of this call: " + ", ".join(f"{stage} {duration(each)}" for stage, each in seconds.items()))
    text = "\n\n".join(lines) + "\n"
    (out / "result.md").write_text(text, encoding="utf-8")
    write_csv(out / "result.csv", parts)
    print(text)
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
