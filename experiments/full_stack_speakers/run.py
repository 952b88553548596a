"""Who speaks when, over whom, and the one you asked for: every task, every control, by one command that goes on where it stopped.

    python experiments/full_stack_speakers/run.py --out runs/full_stack --speech ../shared/speech

Two encoders that differ in utterance mixing alone (`experiments/ablations`), then the tasks of `configs/fullstack` on the
mini corpora: FBANK, random weights, pre-trained, pre-trained without mixing, pre-trained on permuted labels, chance. Where a
card has oracle figures (`oracle` in their names), they get a table. `--speech` adds dialogues and mixtures cut from recordings
of two real speakers, tested by the heads that were trained on synthetic speech. Writes `result.md` and `result.csv`.
"""

from __future__ import annotations

import argparse
import csv
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from real_voices import make

from wavlm_lightning.reports.cards import CARD_NAME, ResultCard, metric_text
from wavlm_lightning.reports.tables import MISSING, Table, duration, metric_title, text_table
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.workflows.fit.head_runs import HeadRun, run_heads
from wavlm_lightning.workflows.superb import run_superb
from wavlm_lightning.workflows.superb.suites import corpus_name, suite_tasks

HERE = Path(__file__).resolve().parent
ENCODERS = {"full": "pre-trained", "no_denoising": "pre-trained without mixing"}  # variants of experiments/ablations
ROWS = {"random:tiny": "random weights", "fbank": "FBANK"}
ORACLE = "oracle"
Cards = Mapping[tuple[str, str], ResultCard]  # by task and row


def pretrain(out: Path, updates: int, encoder: Path | None, size: str) -> dict[str, Path]:
    """Label -> folder of an encoder; those of `experiments/ablations` unless the first is given."""
    script = HERE.parent / "ablations" / "run.py"
    variants = [name for name in ENCODERS if encoder is None or name != "full"]
    command = [
        sys.executable,
        script,
        "--out",
        out / "encoders",
        "--steps",
        updates,
        "--seeds",
        1,
        "--variants",
        *variants,
    ]
    subprocess.run([*map(str, command), "--size", size, "--tasks"], check=True)
    found = {ENCODERS[name]: out / "encoders" / "pretrain" / f"{name}-0" for name in ENCODERS}
    return {**found, ENCODERS["full"]: encoder} if encoder is not None else found


def test_real(out: Path, speech: Path, heads: Mapping[tuple[str, str], Path], count: int, jobs: int) -> Cards:
    """(task, row) -> card of a head trained on synthetic speech, on real voices; tasks without such a corpus are left out."""
    corpora, runs = make(speech, out / "real", count), {}
    for (task, row), folder in heads.items():
        name, checkpoint = corpus_name(task, mini=True), folder / "checkpoints" / "best.ckpt"
        if name in corpora and checkpoint.exists():
            options = ["-c", str(folder / "config.yaml"), "--data.corpus", str(corpora[name].directory)]
            options += ["--data.cache", "null", "--ckpt_path", str(checkpoint)]
            place = out / "real" / "heads" / folder.relative_to(out / "suite")
            runs[task, row] = HeadRun(place, options, fits=False)
    try:
        run_heads(list(runs.values()), lambda run: None, jobs)
    except UserError as error:
        print(f"note: {error}", file=sys.stderr)  # such as letters that synthetic speech does not have
    return {place: ResultCard.read(run.folder) for place, run in runs.items() if (run.folder / CARD_NAME).is_file()}


def figures(cards: Cards, wanted: str | None = None) -> Table | None:
    """Rows by metrics: the headlines of each task, or the metrics whose names hold `wanted`."""
    columns: dict[tuple[str, str], str] = {}
    for (task, _), card in cards.items():
        for name in card.shown if wanted is None else [name for name in card.metrics if wanted in name]:
            columns.setdefault((task, name), f"{card.task} {metric_title(name)}")
    if not columns:
        return None
    body = []
    for row in dict.fromkeys(row for _, row in cards):
        cells = []
        for task, name in columns:
            card = cards.get((task, row))
            cells.append(metric_text(card.metrics[name]) if card is not None and name in card.metrics else MISSING)
        if any(cell != MISSING for cell in cells):
            body.append([row, *cells])
    return text_table(["row", *columns.values()], body)


def write_csv(path: Path, parts: Mapping[str, Cards]) -> None:
    """Every figure of every card."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["data", "task", "row", "metric", "value", "unit", "better", "chance", "utterances"])
        for data, cards in parts.items():
            for (task, row), card in cards.items():
                for name, metric in card.metrics.items():
                    chance = metric.get("chance", "")
                    words = [metric["value"], metric["unit"], metric["better"], chance, card.corpus["utterances"]]
                    writer.writerow([data, task, row, name, *words])


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/full_stack"))
    parser.add_argument("--speech", type=Path, help="recordings of two real speakers, with manifest.csv")
    parser.add_argument("--encoder", type=Path, help="a pre-training run for the row `pre-trained`, of as many updates")
    parser.add_argument("--updates", type=int, default=1000, help="of each pre-training (%(default)s)")
    parser.add_argument("--tasks", nargs="+", help="those of configs/fullstack by default")
    parser.add_argument("--steps", type=int, help="updates of every head, instead of the configurations'")
    parser.add_argument("--size", default="mini", choices=("tiny", "mini"), help="of the corpora")
    parser.add_argument("--real", type=int, default=40, help="dialogues, and mixtures, of real voices (%(default)s)")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    tasks = arguments.tasks or [task for task in suite_tasks("full") if task not in suite_tasks("superb")]
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
    if arguments.speech is not None:
        parts["real voices"] = test_real(out, arguments.speech, board.folders, arguments.real, arguments.jobs)
        passed("real voices")
    lines = [board.text.rpartition("\n\n")[0]]
    titles = {"Oracles": figures(board.cards, ORACLE)}
    if "real voices" in parts:
        titles["Real voices, heads trained on synthetic speech"] = figures(parts["real voices"])
        titles["Real voices, oracles"] = figures(parts["real voices"], ORACLE)
    for title, table in titles.items():
        lines += [f"## {title}", table.to_markdown()] if table is not None else []
    lines.append("Wall time of this call: " + ", ".join(f"{stage} {duration(each)}" for stage, each in seconds.items()))
    text = "\n\n".join(lines) + "\n"
    (out / "result.md").write_text(text, encoding="utf-8")
    write_csv(out / "result.csv", parts)
    print(text)
    for failure in board.failures:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if board.failures else 0)


if __name__ == "__main__":
    main()
