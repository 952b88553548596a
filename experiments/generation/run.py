"""Clean it, separate it, translate it, hear it in noise, say it in another voice: every row of every task, by one command.

    python experiments/generation/run.py --out runs/generation --speech ../shared/speech

The tasks of `configs/fullstack` that generate sound or text, on the mini corpora: STFT or FBANK, random weights, pre-trained,
chance, permuted labels, and what needs no head (unprocessed, oracle, copy-synthesis). Tasks whose rows took less than ten minutes
are repeated with two more seeds. `--speech` adds real speech for the heads that were trained on synthetic speech: prompts in real
noise, two real voices at once, each real voice in the other's. Writes `result.md`, `result.csv` and a report that plays examples.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "full_stack_speakers"))

from convert_voices import convert_all, ways  # noqa: E402
from real_sounds import make, read_noises  # noqa: E402
from rows import ENCODERS, RANDOM, Cards, conditions, failed, figures, pretrain, test_heads, write_csv  # noqa: E402

from wavlm_lightning.data.corpus import Corpus  # noqa: E402
from wavlm_lightning.reports.cards import metric_text, scale  # noqa: E402
from wavlm_lightning.reports.tables import Table, duration, metric_title, text_table  # noqa: E402
from wavlm_lightning.system.errors import UserError  # noqa: E402
from wavlm_lightning.workflows.report import write_report  # noqa: E402
from wavlm_lightning.workflows.superb import run_superb  # noqa: E402
from wavlm_lightning.workflows.superb.benchmark import Board  # noqa: E402
from wavlm_lightning.workflows.superb.suites import chains, configuration, corpus_name  # noqa: E402

# Part of the suite -> its tasks, and the spectral baseline that is SUPERB-SG's there.
PARTS: dict[str, tuple[tuple[str, ...], str]] = {
    "sound": (("se", "ss"), "STFT=stft"),
    "voice": (("vocoder", "vc_knn", "vc", "vc_content"), "FBANK=fbank"),
    "text": (
        ("st", "asr_attention", "ood_asr", "noisy_asr", "noisy_asr_separate", "noisy_asr_joint", "noisy_asr_attention"),
        "FBANK=fbank",
    ),
}
SEEDS = (1, 2)  # further ones
# Parts of a card's `details` that need no head: metrics by name.
GIVEN = ("unprocessed", "oracle", "griffin_lim", "copy_synthesis", "target")
CONVERSIONS, CONTENT = ("vc_knn", "vc", "vc_content"), "content"
CHEAP = 600.0  # seconds of all rows of a task, below which it is repeated


def given(cards: Cards) -> Table | None:
    """What needs no head of its own, from the `details` of the cards: one line where all rows of the suite agree."""
    columns: dict[tuple[str, str], str] = {}
    shown: dict[str, dict[str, dict[tuple[str, str], str]]] = {}  # what -> row of the suite -> column -> text
    for (task, row), card in cards.items():
        for what in GIVEN:
            for name, value in card.details.get(what, {}).items():
                if name in card.metrics and isinstance(value, int | float):
                    columns.setdefault((task, name), f"{card.task} {metric_title(name)}")
                    metric = card.metrics[name]
                    text = metric_text({**metric, "value": scale(metric) * value})
                    shown.setdefault(what, {}).setdefault(row, {})[task, name] = text
    body = []
    for what, rows in shown.items():
        common: dict[tuple[str, str], str] = {}
        for place in columns:
            texts = [cells[place] for cells in rows.values() if place in cells]
            if texts and len(set(texts)) == 1:
                common[place] = texts[0]
        lines = {what.replace("_", " "): common} if common else {}
        for row, cells in rows.items():
            own = {place: text for place, text in cells.items() if place not in common}
            lines |= {f"{what.replace('_', ' ')}, {row}": own} if own else {}
        body += [[label, *(cells.get(place, "") for place in columns)] for label, cells in lines.items()]
    return text_table(["without a head", *columns.values()], body) if body else None


def understood(cards: Cards) -> Table | None:
    """What one recogniser hears in the conversions of every row."""
    tasks = list(dict.fromkeys(task for task, _ in cards))
    heads = [next(card.task for (name, _), card in cards.items() if name == task) for task in tasks]
    body = []
    for row in dict.fromkeys(row for _, row in cards):
        metrics = [cards[task, row].metrics.get(CONTENT) if (task, row) in cards else None for task in tasks]
        body.append([row, *("" if metric is None else metric_text(metric) for metric in metrics)])
    return text_table(["phone errors", *heads], body) if body else None


def with_seed(task: str, seed: int, folder: Path) -> str:
    """The YAML of a task with other initial weights and another order of the data."""
    content = configuration(task, mini=True)
    name = f"{task}-seed{seed}"
    content["seed_everything"] += seed
    content["trainer"]["default_root_dir"] += f"-seed{seed}"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return str(path)


def cheap(board: Board, tasks: Sequence[str]) -> list[str]:
    """Tasks that train, start from no other run, and took less than `CHEAP` seconds on all upstreams."""
    found = []
    for task in tasks:
        cards = [card for (name, _), card in board.cards.items() if name == task]
        seconds = sum(card.training_seconds + card.runtime_seconds for card in cards)
        trained = any(card.trainable_parameters and card.training_seconds for card in cards)
        if cards and trained and seconds < CHEAP and not chains([task], mini=True)[task]:
            found.append(task)
    return found


def spread(first: Cards, repeated: Cards) -> Table | None:
    """Headline of each task and row over its seeds: mean, and the standard deviation of a sample."""
    values: dict[tuple[str, str], list[float]] = {}
    for (task, row), card in (*first.items(), *repeated.items()):
        values.setdefault((task.partition("-seed")[0], row), []).append(card.value)
    values = {place: some for place, some in values.items() if len(some) > 1}
    tasks = list(dict.fromkeys(task for task, _ in values))
    if not tasks:
        return None
    names = {task: next(card for (name, _), card in first.items() if name == task) for task in tasks}
    body, seeds = [], 1 + len(SEEDS)
    for row in dict.fromkeys(row for _, row in values):
        cells = []
        for task in tasks:
            some = values.get((task, row))
            unit = names[task].metrics[names[task].headline]
            text = "" if some is None else f"{_shown(unit, statistics.fmean(some))} ± {_shown(unit, _sd(some))}"
            cells.append(text if some is None or len(some) == seeds else f"{text} ({len(some)} seeds)")
        body.append([row, *cells])
    heads = [f"{names[task].task} {metric_title(names[task].headline)}" for task in tasks]
    return text_table([f"{seeds} seeds", *heads], body)


def _sd(values: Sequence[float]) -> float:
    return statistics.stdev(values)


def _shown(metric: Mapping[str, Any], value: float) -> str:
    return metric_text({**metric, "value": value})  # type: ignore[typeddict-item]


def main() -> None:
    """Parse the options and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/generation"))
    parser.add_argument("--speech", type=Path, help="recordings of two real speakers, with manifest.csv and noise/")
    parser.add_argument(
        "--encoder", type=Path, help="a pre-training run for the row `pre-trained`; made here without it"
    )
    parser.add_argument("--updates", type=int, default=1000, help="of the pre-training (%(default)s)")
    parser.add_argument(
        "--without-mixing", action="store_true", help="a row `pre-trained without mixing`, of as many updates"
    )
    every = [task for tasks, _ in PARTS.values() for task in tasks]
    parser.add_argument("--tasks", nargs="+", choices=every, default=every, metavar="TASK", help="of %(choices)s")
    parser.add_argument("--steps", type=int, help="updates of every head, instead of the configurations'")
    parser.add_argument("--size", default="mini", choices=("tiny", "mini"), help="of the corpora")
    parser.add_argument("--real", type=int, default=40, help="recordings of each real condition (%(default)s)")
    parser.add_argument("--one-seed", action="store_true", help="repeat nothing with further seeds")
    parser.add_argument("--jobs", type=int, default=2)
    arguments = parser.parse_args()
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    if arguments.speech is not None:  # refused now, not after the training
        read_noises(arguments.speech)
        if set(arguments.tasks) & {*PARTS["voice"][0]}:
            ways(arguments.speech, arguments.real)
    seconds, begin = {}, time.monotonic()

    def passed(stage: str) -> None:
        nonlocal begin
        seconds[stage], begin = time.monotonic() - begin, time.monotonic()

    names = [*ENCODERS] if arguments.without_mixing else [next(iter(ENCODERS))]
    encoders = pretrain(out, arguments.updates, arguments.encoder, arguments.size, names)
    passed("pre-training")
    more: dict[str, Any] = {"size": arguments.size, "jobs": arguments.jobs, "steps": arguments.steps}
    parts: dict[str, Cards] = {}
    voices: Path | None = None
    lines, failures = [f"# {__doc__.partition(chr(10))[0]}"], []
    # A page holds a task on one corpus, so that each condition of real speech has its own.
    reported: dict[str, list[Path]] = {"generation": []}
    for part, (listed, baseline) in PARTS.items():
        tasks = [task for task in listed if task in arguments.tasks]
        if not tasks:
            continue
        upstreams = [*(f"{label}={folder}" for label, folder in encoders.items()), f"random weights={RANDOM}", baseline]
        suite = out / part
        board = run_superb(upstreams, "mini", suite, tasks, controls=["chance", "permuted"], **more)
        failures += board.failures
        parts[part] = board.cards
        reported["generation"].append(suite)
        lines += [f"## {part.capitalize()}", board.text.rpartition("\n\n")[0]]
        tables = {"": given(board.cards)}
        tables |= {f"{task}, each condition": conditions(board.cards, task) for task in tasks}
        passed(part)
        if not arguments.one_seed and (again := cheap(board, tasks)):
            files = [with_seed(task, seed, out / "seeds") for task in again for seed in SEEDS]
            repeated = run_superb(upstreams, suite / "corpus", out / f"{part}-seeds", files, **more)
            failures += repeated.failures
            parts[f"{part}, further seeds"] = repeated.cards
            tables["Seeds"] = spread(board.cards, repeated.cards)
            passed(f"{part}, further seeds")
        if part == "voice" and (judge := board.folders.get(("pr", next(iter(encoders))))) is not None:
            # Each row was judged by the recogniser on its own encoder; here one judges all.
            heard = {place: folder for place, folder in board.folders.items() if place[0] in CONVERSIONS}
            names = {corpus_name(task, mini=True) for task, _ in heard}
            own = {name: Corpus.open(suite / "corpus" / name) for name in names}
            options = ["--model.content", str(judge)]
            conversions, missing = test_heads(out / "judged", suite, heard, own, arguments.jobs, options)
            failures += missing
            parts[f"{part}, one recogniser"] = conversions
            tables[f"Content, by the recogniser on {next(iter(encoders))}"] = understood(conversions)
            passed("voice, one recogniser")
        if arguments.speech is not None:
            for condition, corpora in make(arguments.speech, out / "real", arguments.real).items():
                heads = out / "real" / condition.replace(" ", "_") / "heads"
                cards, missing = test_heads(heads, suite, board.folders, corpora, arguments.jobs)
                failures += missing
                if cards:
                    parts[condition] = cards
                    reported[condition] = [heads]
                    title = condition[0].upper() + condition[1:]
                    tables |= {f"{title}, heads trained on synthetic speech": figures(cards), title: given(cards)}
            if part == "voice":
                runs = {row: folder for (task, row), folder in board.folders.items() if task == "vocoder"}
                runs |= {f"{label}, Griffin-Lim": folder for label, folder in encoders.items()}
                table, voices = convert_all(arguments.speech, out / "real" / "voices", runs, arguments.real)
                tables["Real voices converted"] = table
            passed(f"{part}, real speech")
        for title, table in tables.items():
            if table is not None:
                lines += [*([f"### {title}"] if title else []), table.to_markdown()]
    lines += failed(failures)
    lines.append("Wall time of this call: " + ", ".join(f"{stage} {duration(each)}" for stage, each in seconds.items()))
    text = "\n\n".join(lines) + "\n"
    (out / "result.md").write_text(text, encoding="utf-8")
    write_csv(out / "result.csv", parts)
    pages = [*([voices] if voices is not None else [])]
    for name, folders in reported.items():
        place = out / ("report" if name == "generation" else f"report_{name.replace(' ', '_')}")
        page, left_out = write_report(folders, place, title=name[0].upper() + name[1:])
        pages.append(page)
        for sentence in left_out:
            print(f"note: {sentence}", file=sys.stderr)
    print(text)
    print("listen: " + ", ".join(map(str, pages)))
    for failure in failures:
        print(f"failed: {failure}", file=sys.stderr)
    sys.exit(1 if failures else 0)


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"{Path(__file__).name}: {error}")
