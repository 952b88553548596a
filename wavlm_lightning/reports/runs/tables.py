"""Tables of a report: results, our rows among SUPERB's published ones, two upstreams side by side, cost, health, setup."""

import json
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any

from wavlm_lightning.metrics import superb
from wavlm_lightning.metrics.superb import METRICS, REFERENCE_POINTS, TASKS
from wavlm_lightning.reports.cards import DECIMALS, ResultCard
from wavlm_lightning.reports.curves import Series
from wavlm_lightning.reports.runs.comparison import Against, against, unlike_searches, winners
from wavlm_lightning.reports.runs.curves import PretrainingFacts, PretrainingRun, health, top_rank
from wavlm_lightning.reports.runs.results import Collection, Column, Result, board_metrics, weights_of
from wavlm_lightning.reports.significance import Difference, p_text
from wavlm_lightning.reports.superb_table import board_column, board_values
from wavlm_lightning.reports.tables import ARROWS, MISSING, Cell, Table, duration, metric_title, text_table, two_columns

OURS = "ours"
COST_COLUMNS = (
    Cell("parameters", note="of the upstream"),
    Cell("rates tried", note="per task"),
    Cell("seeds", note="per task"),
    Cell("training", note="of the heads"),
    Cell("test", note="wall time"),
)
MOST_CHARACTERS = 60  # of a fitted value
# Returns the reason why a card must not be compared with the published rows; None if it may.
Official = Callable[[ResultCard], str | None]
_BETTER = {column: "lower" if worst > best else "higher" for column, (worst, best) in REFERENCE_POINTS.items()}


def figure(value: float, decimals: int = DECIMALS) -> str:
    """Write a figure at the precision of the tables, or at that of its metric; equal texts count as equal everywhere."""
    return f"{value:.{decimals}f}"


def column_cell(column: Column) -> Cell:
    """The head of a column: the task, and below it the metric with unit and direction."""
    measure = "\u00a0".join(filter(None, [column.unit, ARROWS[column.better]]))
    return Cell(column.task, note=f"{metric_title(column.metric)} {measure}")


def measured_table(collection: Collection) -> Table:
    """Every metric (columns) of every upstream (rows), with intervals, seeds, size and cost.

    A figure is a mean ± deviation over seeds, its 95 % interval below it. Bold is a figure ahead of all others of its column
    (`comparison.winners`). Where upstreams of a task tried different numbers of learning rates, each figure says how many.
    """
    columns, best = collection.columns, winners(collection)
    rows = [[Cell(upstream)] for upstream in collection.results]
    for column in columns:
        found = collection.of_column(column)
        unlike = unlike_searches(collection, column.task)
        for upstream, cells in zip(collection.results, rows, strict=True):
            if (result := found.get(upstream)) is None:
                cells.append(Cell(MISSING))
                continue
            notes = [result.measured[column.metric].interval_text, _count(result)]
            notes.append(_plural(result.rates_tried or 1, "rate") if unlike else "")
            value, strong = result.value(column.metric), upstream == best.get(column)
            text = with_deviation(result, column.metric)
            cells.append(Cell(text, strong, ", ".join(filter(None, notes)), order=value))
    for row, cells in zip(collection.results.values(), rows, strict=True):
        cells += _cost_cells(list(row.values()))
    foot = []
    more: list[Cell] = [Cell("")] * len(COST_COLUMNS)
    chances = [_chance(collection, column) for column in columns]
    if any(chances):
        foot.append([Cell("chance"), *(Cell(chance or MISSING) for chance in chances), *more])
    foot.append([Cell("test utterances"), *(Cell(_test_sizes(collection, column)) for column in columns), *more])
    return Table([Cell("upstream"), *map(column_cell, columns), *COST_COLUMNS], rows, wide=True, foot=foot)


def _cost_cells(results: Sequence[Result]) -> list[Cell]:
    """Size, rates tried, seeds, and seconds of training and test of one upstream."""
    cards = [card for result in results for card in result.cards]
    size = cards[0].upstream["parameters"]
    cells = [Cell(_millions(size) if size else MISSING, order=size)]
    cells += [_range([result.rates_tried for result in results]), _range([len(result.cards) for result in results])]
    for seconds in (sum(card.training_seconds for card in cards), sum(card.runtime_seconds for card in cards)):
        cells.append(Cell(duration(seconds) if seconds else MISSING, order=seconds))
    return cells


def _range(counts: Sequence[int | None]) -> Cell:
    known = [count for count in counts if count is not None]
    if not known:
        return Cell(MISSING)
    low, high = min(known), max(known)
    return Cell(f"{low}" if low == high else f"{low} to {high}", order=high)


def _millions(parameters: int) -> str:
    return f"{parameters / 1e6:.1f} M" if parameters >= 100_000 else f"{parameters:,}"


def with_deviation(result: Result, metric: str) -> str:
    """Write a figure of a result, with its deviation if there are several seeds: "53.40 ± 0.40"."""
    return result.measured[metric].text


def board_cards(row: Mapping[str, Result]) -> dict[str, ResultCard]:
    """Task -> card, for the tasks of a row that SUPERB's board has columns for."""
    return {task: result.card for task, result in row.items() if task in TASKS and board_metrics(result.card)}


def reservations(collection: Collection, official: Official) -> dict[str, str]:
    """Upstream -> why its row must not be compared with the published ones; comparable upstreams are absent."""
    found = {}
    for upstream, row in collection.results.items():
        reasons = [official(card) for task in board_cards(row) for card in row[task].cards]
        if reason := next(filter(None, reasons), None):
            found[upstream] = reason
    return found


def board_table(collection: Collection, reserved: Mapping[str, str]) -> Table:
    """The published rows and ours: complete official rows placed by Score, the others at the end without Score."""
    ranked: list[tuple[float, list[Cell]]] = [
        (entry.score or 0, _board_row(Cell(entry.name), str(entry.score), f"{entry.rank:.2f}", entry.values))
        for entry in superb.published_entries()
        if entry.shown
    ]
    below = []
    for upstream, row in collection.results.items():
        cards = board_cards(row)
        if not (values := board_values(cards)):
            continue
        if len(cards) == len(TASKS) and upstream not in reserved:
            own, name = superb.score(values), Cell(upstream, strong=True, note=OURS)
            ranked.append((own, _board_row(name, str(own), f"{superb.rank(values):.2f}", values)))
        else:
            why = "not comparable" if upstream in reserved else f"{len(cards)} of {len(TASKS)} tasks"
            below.append(_board_row(Cell(upstream, strong=True, note=f"{OURS}, {why}"), MISSING, MISSING, values))
    ranked.sort(key=lambda pair: -pair[0])
    head = [Cell("upstream"), Cell("Score", note="↑"), Cell("Rank", note="↑")]
    head += [board_column(column, _BETTER[column]) for column in METRICS]
    return Table(head, [*(cells for _, cells in ranked), *below], wide=True)


def partial_tables(collection: Collection, reserved: Mapping[str, str]) -> list[tuple[list[str], Table]]:
    """(tasks, mean points over these tasks of published and own rows), per set of tasks of incomplete official rows."""
    sets: dict[tuple[str, ...], list[tuple[str, dict[str, float]]]] = {}
    for upstream, row in collection.results.items():
        cards = board_cards(row)
        if cards and upstream not in reserved and len(cards) < len(TASKS):
            tasks = tuple(task for task in TASKS if task in cards)
            sets.setdefault(tasks, []).append((upstream, board_values(cards)))
    tables = []
    for tasks, own in sets.items():
        rows = [(points, Cell(entry.name)) for entry, points in superb.leaderboard(tasks)]
        rows += [(superb.partial_score(values), Cell(name, strong=True, note=OURS)) for name, values in own]
        rows.sort(key=lambda pair: -pair[0])
        body = [[name, Cell(f"{points:.0f}")] for points, name in rows]
        tables.append((list(tasks), Table([Cell("upstream"), Cell("mean points")], body)))
    return tables


def comparison_table(collection: Collection, first: str, second: str) -> Table:
    """Every metric that both upstreams have: both figures, the paired difference second minus first, and its p-value."""
    found = against(collection, second, first)
    rows = []
    for column, gap in found.columns.items():
        results = [collection.of_column(column)[name] for name in (first, second)]
        before = results[0].value(column.metric)
        relative = f"{100 * gap.value / abs(before):+.1f} %" if before else MISSING
        row = [Cell(f"{column.task} {metric_title(column.metric)} {ARROWS[column.better]}")]
        row += [Cell(with_deviation(result, column.metric), note=_notes(result, column)) for result in results]
        order = 100 * gap.value / abs(before) if before else None
        rows.append([*row, _gap_cell(gap, column, results), Cell(relative, order=order), *_test_cells(gap)])
    head = ("metric", first, second, "difference", "relative", "p", f"{second} is")
    return Table(list(map(Cell, head)), rows, wide=True)


def control_table(collection: Collection, found: Sequence[Against]) -> Table:
    """Each upstream against the control on every metric: paired difference, p-value, verdict, both figures.

    What decides comes first, so that a phone shows it without scrolling sideways.
    """
    rows = []
    for one in found:
        for column, gap in one.columns.items():
            results = [collection.of_column(column)[name] for name in (one.upstream, one.reference)]
            row = [Cell(one.upstream), Cell(f"{column.task} {metric_title(column.metric)} {ARROWS[column.better]}")]
            row += [_gap_cell(gap, column, results), *_test_cells(gap)]
            figures = [Cell(with_deviation(result, column.metric), note=_notes(result, column)) for result in results]
            rows.append([*row, *figures])
    reference = found[0].reference
    head = ("upstream", "metric", "difference", "p", "verdict", "figure", reference)
    return Table(list(map(Cell, head)), rows, wide=True, names=2)


def _gap_cell(gap: Difference, column: Column, results: Sequence[Result]) -> Cell:
    unit = "points" if column.unit == "%" else column.unit
    decimals = max(result.measured[column.metric].decimals for result in results)
    ends = "" if gap.ends is None else f"[{gap.ends[0]:+.{decimals}f}, {gap.ends[1]:+.{decimals}f}] "
    return Cell(f"{gap.value:+.{decimals}f}", note=f"{ends}{unit}", order=gap.value)


def _test_cells(gap: Difference) -> list[Cell]:
    tested = f"{gap.utterances:,} paired" if gap.p_value is not None else ""
    p_value = Cell(p_text(gap.p_value) or MISSING, note=tested, order=gap.p_value)
    return [p_value, Cell(gap.verdict, note=gap.why)]


def _notes(result: Result, column: Column) -> str:
    interval, rates = result.measured[column.metric].interval_text, result.rates_tried or 1
    return ", ".join(filter(None, [interval, _count(result), _plural(rates, "rate") if rates > 1 else ""]))


def _plural(count: int, what: str) -> str:
    return f"{count}\u00a0{what}{'' if count == 1 else 's'}"


def health_table(runs: Sequence[PretrainingRun]) -> Table:
    """Losses and health of every pre-training run at its last validation."""
    head = [Cell("run"), Cell("updates"), Cell("loss", note="held out, nats"), Cell("masked", note="held out, %")]
    head += [Cell("guessing", note="commonest label, %"), Cell("perplexity", note="held out")]
    head += [Cell("rank", note="top layer"), Cell("gradient", note="median norm"), Cell("skipped", note="updates")]
    rows = []
    for run in runs:
        get = run.curves.get
        norm = get("train/gradient_norm")
        row = [run.name, f"{run.steps:,}", _last(get("valid/loss"), 2)]
        row += [_last(get(f"valid/{kind}_accuracy"), 1, 100) for kind in ("masked", "majority")]
        row += [_last(get("valid/perplexity"), 1), _last(top_rank(run.curves), 1)]
        row += [f"{median(norm.values):.2f}" if norm else MISSING, _last(get("train/skipped_updates"), 0)]
        rows.append(row)
    return text_table(head, rows, wide=True)


def pretraining_cost(runs: Sequence[PretrainingRun]) -> Table:
    """Time and GPU-hours of every pre-training run, as far as its curves and its configuration tell."""
    head = [Cell("pre-training"), Cell("updates"), Cell("speed", note="audio-seconds / s, median")]
    head += [Cell("training", note="without validation"), Cell("cost")]
    rows = []
    for run in runs:
        speed = health(run.curves, "audio_seconds_per_second")
        cost = MISSING
        if run.seconds is not None and run.devices is not None:
            cost = f"{run.seconds / 3600 * run.devices:.2f} {'GPU' if run.on_gpu else 'CPU'}-hours"
        row = [run.name, f"{run.steps:,}", f"{median(speed.values):,.0f}" if speed else MISSING]
        rows.append([*row, MISSING if run.seconds is None else duration(run.seconds), cost])
    return text_table(head, rows, wide=True)


def heads_cost(collection: Collection) -> Table:
    """Updates, training and test time of the heads of every upstream, from their cards."""
    rows = []
    for upstream, row in collection.results.items():
        cards = [card for result in row.values() for card in result.cards]
        audio = sum(card.corpus["seconds"] for card in cards)
        time = sum(card.runtime_seconds for card in cards)
        training = sum(card.training_seconds for card in cards)
        row_cells = [Cell(upstream), Cell(f"{len(cards):,}"), Cell(f"{sum(card.steps for card in cards):,}")]
        times = (training, audio, time)
        rows.append([*row_cells, *(Cell(duration(value) if value else MISSING, order=value) for value in times)])
    head = ("heads on", "heads", "updates", "training", "test audio", "test time")
    return Table(list(map(Cell, head)), rows, wide=True)


def stages_table(name: str, seconds: Mapping[str, float]) -> Table:
    """The wall time of the stages of `wavlm demo` or `wavlm recipe`."""
    rows = [*seconds.items(), ("total", sum(seconds.values()))]
    return text_table((f"stages of {name}", "wall time"), [[stage, duration(value)] for stage, value in rows])


def setup_pairs(run: PretrainingRun, facts: PretrainingFacts) -> list[tuple[str, str]]:
    """(what, how) pairs of a pre-training run: corpus, codebook, encoder, precision; unknown ones are empty."""
    corpus = [facts.corpus, _known(facts.minutes, "{:,.0f} min"), _known(facts.speakers, "{:,} speakers")]
    codebook = [
        _known(facts.clusters, "{:,} clusters"),
        _known(facts.pnmi, "PNMI {:.3f}"),
        _known(facts.purity, "phone purity {:.3f}"),
        _known(facts.unigram, "commonest label {:.1%}").replace("%", " %"),
    ]
    return [
        ("corpus", ", ".join(filter(None, corpus))),
        ("codebook", ", ".join(filter(None, codebook))),
        ("encoder with prediction head", _known(facts.parameters, "{:,} parameters")),
        *([("labels seen", facts.labelled)] if facts.labelled else []),
        ("audio, repetitions counted", _known(run.audio_seconds, "at most {}", duration)),
        ("precision", str(run.trainer.get("precision") or "")),
    ]


def setup_table(setups: Mapping[str, Sequence[tuple[str, str]]]) -> Table:
    """Pre-training runs -> their `setup_pairs`: a list for one run, a row per run for several."""
    if len(setups) == 1:
        return two_columns(next(iter(setups.values())))
    # One of several runs may have seen labels, and the others none.
    longest = max(setups.values(), key=len)
    names = [name for name, _ in longest]
    rows = [[run, *(dict(pairs).get(name) or MISSING for name in names)] for run, pairs in setups.items()]
    return text_table(["pre-training", *names], rows, numeric=False, wide=True)


def stages_of_heads(collection: Collection) -> Table | None:
    """What was fitted on validation, with which weights training began, and averages; None if no card has any of it."""
    rows = []
    for upstream, row in collection.results.items():
        for task, result in row.items():
            for card in result.cards:
                if card.fitted or card.started or card.averaged:
                    started = card.started and f"{card.started['with']} of {card.started['checkpoint']}"
                    weights = f"mean of {len(card.averaged)} checkpoints" if card.averaged else ""
                    fitted = ", ".join(f"{name} {_short(value)}" for name, value in card.fitted.items())
                    rows.append([upstream, task, fitted or MISSING, started or MISSING, weights or MISSING])
    head = ("upstream", "task", "fitted on validation", "began with", "weights")
    return text_table(head, rows, numeric=False, wide=True) if rows else None


def _short(value: Any) -> str:
    """A fitted value in a cell of a table; the card has it whole."""
    if isinstance(value, float):
        return f"{value:.4g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= MOST_CHARACTERS else f"{text[: MOST_CHARACTERS - 1]}…"


def labels_of_heads(collection: Collection) -> Table | None:
    """True labels and pseudo-labels that the heads were trained on; None if no head was trained on pseudo-labels."""
    if not any(card.pseudo_labelled for card in collection.cards):
        return None
    rows = []
    for upstream, row in collection.results.items():
        for task, result in row.items():
            for card in result.cards:
                pseudo = card.pseudo_labelled
                more = [f"round {pseudo['round']}"] if "round" in pseudo else []
                more += [f"{100 * pseudo['share']:g} % of the audio"] if "share" in pseudo else []
                rows.append([upstream, task, _labels(card.labelled), _labels(pseudo), ", ".join(more) or MISSING])
    return text_table(("upstream", "task", "true labels", "pseudo-labels", "how"), rows, numeric=False, wide=True)


def _labels(entry: Mapping[str, Any]) -> str:
    return f"{_seen([entry])}, {entry.get('utterances', 0):,} utterances" if entry else MISSING


def _seen(entries: Sequence[Mapping[str, Any]]) -> str:
    from wavlm_lightning.encoder.checkpoints.labels_seen import said  # not above: it imports torch

    return said(entries)


def encoders_table(collection: Collection) -> Table:
    """Size, layers, frame rate and weights of every upstream; and which labels its weights have seen, if any has seen some."""
    rows, seen = [], []
    for name, row in collection.results.items():
        encoder = next(iter(row.values())).card.upstream
        size = f"{encoder['parameters']:,}" if encoder["parameters"] else MISSING
        hashes = {weights_of(card)[:12] for result in row.values() for card in result.cards}
        weights = f"{len(hashes)} different" if len(hashes) > 1 else hashes.pop() or MISSING
        rows.append([name, size, str(encoder["layers"]), f"{encoder['frame_rate']:g}", weights])
        seen.append(_seen(encoder.get("labelled") or ()) or MISSING)
    head = ["upstream", "parameters", "layers", "frames a second", "weights (sha256)"]
    if set(seen) != {MISSING}:
        head, rows = [*head, "labels seen"], [[*row, labels] for row, labels in zip(rows, seen, strict=True)]
    return text_table(head, rows)


def _known(value: Any, form: str, text: Callable[[Any], Any] = lambda value: value) -> str:
    return "" if value is None else form.format(text(value))


def _last(series: Series | None, decimals: int, factor: float = 1) -> str:
    return MISSING if series is None else f"{factor * series.last:,.{decimals}f}"


def _board_row(name: Cell, own_score: str, own_rank: str, values: Mapping[str, float]) -> list[Cell]:
    figures = [Cell(figure(values[column]) if column in values else MISSING) for column in METRICS]
    return [name, Cell(own_score), Cell(own_rank), *figures]


def _count(result: Result) -> str:
    return f"n = {len(result.cards)}" if len(result.cards) > 1 else ""


def _chance(collection: Collection, column: Column) -> str | None:
    metrics = (result.card.metrics[column.metric] for result in collection.of_column(column).values())
    return next((figure(metric["chance"], column.decimals) for metric in metrics if "chance" in metric), None)


def _test_sizes(collection: Collection, column: Column) -> str:
    # Results on different test sets cannot be compared: all sizes are shown, so that a reader notices.
    sizes = dict.fromkeys(result.card.corpus["utterances"] for result in collection.of_task(column.task).values())
    return " / ".join(f"{size:,}" for size in sizes) or MISSING
