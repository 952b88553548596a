"""The sentences and small tables of a report of many runs."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from wavlm_lightning.metrics.superb import TASKS
from wavlm_lightning.reports.curves import Series
from wavlm_lightning.reports.demo_text import duration
from wavlm_lightning.reports.runs.curves import PretrainingRun, health, top_rank
from wavlm_lightning.reports.runs.results import Collection
from wavlm_lightning.reports.runs.tables import board_cards, winners
from wavlm_lightning.reports.tables import MISSING, Cell, Table, metric_title

BARS = "The main metric of every task; a dotted line is what guessing scores, a whisker the deviation over seeds."
RADAR = "One radar an upstream, its own outline in colour and the others' in grey; further out is better. "
RADAR_POINTS = "Centre: FBANK's figure, 0 SUPERB points; rim: 1000 points, the best published in 2021."
RADAR_PERCENT = "Rim: 100 % right (accuracy, F1, or 100 minus an error rate); centre: nothing right."
HEADS = "The main metric on the validation split while heads were trained; mean over seeds and folds."
RATES = (
    "Test figures over the learning rates that were tried; the large dot is the rate that validated best, which is the "
    "one that counts. Test figures had no say in that choice."
)
LAYERS = (
    "Every head reads a learned mixture of the encoder's layers; each row is one task and sums to 100 %. Layer 0 is what "
    "enters the transformer, the last is its output. Speaker tasks stand at the top, content tasks at the bottom."
)
LAYERS_CLAIM = (
    "The weight analysis of the WavLM paper says: bottom layers for speakers, top layers for content. Held against these "
    "weights by the mean layer of each task:"
)
LAYERS_CAUTION = (
    "Weights start even: a row that still is has hardly been trained, and says little. And a weight is not a "
    "contribution: layers are summed as they are, so one of larger norm counts for more."
)
PRETRAINING = (
    "Curves of pre-training. Effective rank is that of the top layer on clean speech: a run whose rank falls towards 1 has "
    "collapsed. Speed counts audio of all processes, loading and checkpoints included, validation not."
)
RADAR_FIRST = " Only the first {} of {} upstreams have a radar of their own."
GREY = " With more than seven names, only the best and the worst at the end have a colour."


def lead(collection: Collection, runs: Sequence[PretrainingRun]) -> str:
    """What the report says, in one or two sentences."""
    if not collection.results:
        if not runs:
            return "There is nothing to report yet."
        return f"{_count(len(runs), 'pre-training run')}, nothing scored yet."
    tasks, upstreams = collection.tasks, list(collection.results)
    if len(upstreams) == 1:
        return f"{upstreams[0]} on {_count(len(tasks), 'task')}: {', '.join(tasks)}."
    best = winners(collection)
    if not best:
        return f"{_count(len(upstreams), 'upstream')}, no two of which were scored on the same task."
    counts = {name: sum(name in some for some in best.values()) for name in upstreams}
    top = max(counts.values())
    leaders = [name for name in upstreams if counts[name] == top]
    of = f"{top} of {_count(len(best), 'metric')}"
    if len(leaders) > 3:
        return f"No upstream of {len(upstreams)} stands out: none has the best figure on more than {of}."
    if len(leaders) > 1:
        return f"{', '.join(leaders[:-1])} and {leaders[-1]} have the best figure on {of} each."
    won = ", ".join(_column(column) for column, some in best.items() if leaders[0] in some)
    return f"{leaders[0]} has the best figure on {of} ({won})."


def board_sentences(collection: Collection, reserved: Mapping[str, str]) -> list[str]:
    """Which rows may be compared with the published ones, and why the others may not."""
    lines = []
    by_reason: dict[str, list[str]] = {}
    for upstream, reason in reserved.items():
        by_reason.setdefault(reason, []).append(upstream)
    for reason, names in by_reason.items():
        lines.append(
            f"**Not comparable with the published rows**, so without Score and Rank: {_names(names)}, because {reason}."
        )
    for upstream, row in collection.results.items():
        count = len(board_cards(row))
        if upstream not in reserved and 0 < count < len(TASKS):
            lines.append(f"{upstream} has {count} of {len(TASKS)} tasks, so there is no official Score and no Rank.")
    return lines


def key_facts(collection: Collection, runs: Sequence[PretrainingRun]) -> list[tuple[str, str]]:
    """(what, figure) pairs for the top of the page."""
    cards = [card for row in collection.results.values() for result in row.values() for card in result.cards]
    facts = [
        ("upstreams", len(collection.results)),
        ("tasks", len(collection.tasks)),
        ("results", len(cards)),
        ("cards in all", len(collection.files)),
        ("pre-training runs", len(runs)),
    ]
    return [(name if value > 1 else name.removesuffix("s"), f"{value:,}") for name, value in facts if value]


def health_table(runs: Sequence[PretrainingRun]) -> Table:
    """The last validation of every pre-training run, and whether it was healthy."""
    head = [Cell("run"), Cell("updates"), Cell("loss", note="held out, nats"), Cell("masked", note="held out, %")]
    head += [Cell("perplexity", note="held out"), Cell("rank", note="top layer"), Cell("gradient", note="median norm")]
    head += [Cell("skipped", note="updates")]
    rows = []
    for run in runs:
        curves = run.curves
        rank, norm = top_rank(curves), curves.get("train/gradient_norm")
        row = [run.name, f"{run.steps:,}", _last(curves.get("valid/loss"), 2)]
        row += [_last(curves.get("valid/masked_accuracy"), 1, 100), _last(curves.get("valid/perplexity"), 1)]
        row += [_last(rank, 1), f"{median(norm.values):.2f}" if norm else MISSING]
        row += [_last(curves.get("train/skipped_updates"), 0)]
        rows.append([Cell(text) for text in row])
    return Table(head, rows, wide=True)


def pretraining_cost(runs: Sequence[PretrainingRun]) -> Table:
    """What every pre-training run has cost, as far as its curves and its configuration tell."""
    head = [Cell("pre-training"), Cell("updates"), Cell("speed", note="audio-seconds / s, median")]
    head += [Cell("training", note="without validation"), Cell("cost")]
    rows = []
    for run in runs:
        speed = health(run.curves, "audio_seconds_per_second")
        row = [run.name, f"{run.steps:,}", f"{median(speed.values):,.0f}" if speed else MISSING]
        row.append(MISSING if run.seconds is None else duration(run.seconds))
        if run.seconds is None or run.devices is None:
            row.append(MISSING)
        else:
            row.append(f"{run.seconds / 3600 * run.devices:.2f} {'GPU' if run.on_gpu else 'CPU'}-hours")
        rows.append([Cell(text) for text in row])
    return Table(head, rows, wide=True)


def heads_cost(collection: Collection) -> Table:
    """What the heads of every upstream have cost, as far as the cards tell."""
    head = [Cell("heads on"), Cell("heads"), Cell("updates"), Cell("test audio"), Cell("test time")]
    rows = []
    for upstream, row in collection.results.items():
        cards = [card for result in row.values() for card in result.cards]
        audio = sum(card.corpus["seconds"] for card in cards)
        time = sum(card.runtime_seconds for card in cards)
        texts = [upstream, f"{len(cards):,}", f"{sum(card.steps for card in cards):,}", duration(audio)]
        rows.append([Cell(text) for text in [*texts, duration(time) if time else MISSING]])
    return Table(head, rows, wide=True)


def stages_table(name: str, seconds: Mapping[str, Any]) -> Table:
    """The wall time of the stages of `wavlm demo` or `wavlm recipe`."""
    rows = [[Cell(stage), Cell(duration(float(value)))] for stage, value in seconds.items()]
    rows.append([Cell("total"), Cell(duration(sum(map(float, seconds.values()))))])
    return Table([Cell(f"stages of {name}"), Cell("wall time")], rows)


def command_title(upstream: str, tasks: Sequence[str]) -> str:
    """What stands on the fold of an upstream's commands."""
    return f"{upstream}: {', '.join(tasks)}"


def card_line(task: str, metric: str, value: str, seed: int, address: str) -> str:
    """A result with the link to its card."""
    return f"[{task} {metric} {value}]({address}), seed {seed}:"


def file_name(path: Path, base: Path) -> str:
    """A path as sentences call it: from `base` where it lies below it."""
    return str(path.relative_to(base)) if path.is_relative_to(base) else str(path)


def _last(series: Series | None, decimals: int, factor: float = 1) -> str:
    return MISSING if series is None else f"{factor * series.last:,.{decimals}f}"


def _column(column: Any) -> str:
    return f"{column.task} {metric_title(column.metric)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _names(names: Sequence[str]) -> str:
    return ", ".join(names) if len(names) <= 6 else f"{', '.join(names[:5])} and {len(names) - 5} more"
