"""The tables of a report: our results, our rows among SUPERB's published ones, and two upstreams side by side."""

from collections.abc import Callable, Mapping, Sequence

from wavlm_lightning.metrics.superb import (
    METRICS,
    REFERENCE_POINTS,
    TASKS,
    leaderboard,
    partial_score,
    published_entries,
    rank,
    score,
)
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.runs.results import Collection, Column, Result, board_metrics
from wavlm_lightning.reports.superb_table import METRIC_OF, board_values
from wavlm_lightning.reports.tables import ARROWS, MISSING, Cell, Table, metric_title

OURS = "ours"
Official = Callable[[ResultCard], str | None]
"""Why a card must not be compared with the published ones; None if it may be."""

# The board's own precision; what looks like a tie in a table is called one.
DECIMALS = 2
_BETTER = {column: "lower" if worst > best else "higher" for column, (worst, best) in REFERENCE_POINTS.items()}


def figure(value: float) -> str:
    """A figure at the precision of the tables."""
    return f"{value:.{DECIMALS}f}"


def column_cell(column: Column) -> Cell:
    """The head of a column: the task, and below it the metric with its unit and direction."""
    measure = "\u00a0".join(filter(None, [column.unit, ARROWS[column.better]]))
    return Cell(column.task, note=f"{metric_title(column.metric)} {measure}")


def measured_table(collection: Collection) -> Table:
    """Every metric (columns) of every upstream (rows): mean ± deviation over seeds, the best of each column strong."""
    columns = collection.columns
    best = {column: _best(collection, column) for column in columns}
    rows = []
    for upstream, row in collection.results.items():
        cells = [Cell(upstream)]
        for column in columns:
            result = row.get(column.task)
            if result is None or column.metric not in result.card.metrics:
                cells.append(Cell(MISSING))
                continue
            value = result.card.metrics[column.metric]["value"]
            cells.append(Cell(with_deviation(result, column.metric), figure(value) == best[column], _count(result)))
        rows.append(cells)
    chances = [_chance(collection, column) for column in columns]
    if any(chances):
        rows.append([Cell("chance"), *(Cell(chance or MISSING) for chance in chances)])
    rows.append([Cell("test utterances"), *(Cell(_test_sizes(collection, column)) for column in columns)])
    return Table([Cell("upstream"), *map(column_cell, columns)], rows, wide=True)


def winners(collection: Collection) -> dict[Column, list[str]]:
    """Who has the best figure of each column for which there is a contest; several where tables show a tie."""
    found = {}
    for column in collection.columns:
        best = _best(collection, column)
        if best is not None:
            found[column] = [name for name, row in collection.results.items() if _shown(row, column) == best]
    return found


def with_deviation(result: Result, metric: str) -> str:
    """A figure of a result, with its deviation where there are several seeds: "53.40 ± 0.40"."""
    deviation = result.deviation(metric)
    text = figure(result.card.metrics[metric]["value"])
    return text if deviation is None else f"{text} ± {figure(deviation)}"


def board_cards(row: Mapping[str, Result]) -> dict[str, ResultCard]:
    """The cards of a row that the board has columns for, by task."""
    return {task: result.card for task, result in row.items() if task in TASKS and board_metrics(result.card)}


def reservations(collection: Collection, official: Official) -> dict[str, str]:
    """Upstream -> why its row may not be compared with the published ones; those that may be are absent."""
    found = {}
    for upstream, row in collection.results.items():
        reasons = [official(card) for task in board_cards(row) for card in row[task].cards]
        if reason := next(filter(None, reasons), None):
            found[upstream] = reason
    return found


def board_table(collection: Collection, reserved: Mapping[str, str]) -> Table:
    """The published rows and ours: full official ones in their place by Score, the others below, without Score.

    Args:
        collection: the results.
        reserved: upstreams that may not be compared.
    """
    ranked: list[tuple[float, list[Cell]]] = [
        (entry.score or 0, _board_row(Cell(entry.name), str(entry.score), f"{entry.rank:.2f}", entry.values))
        for entry in published_entries()
        if entry.shown
    ]
    below = []
    for upstream, row in collection.results.items():
        cards = board_cards(row)
        values = board_values(cards)
        if not values:
            continue
        if len(cards) == len(TASKS) and upstream not in reserved:
            own = score(values)
            name = Cell(upstream, strong=True, note=OURS)
            ranked.append((own, _board_row(name, str(own), f"{rank(values):.2f}", values)))
        else:
            why = "not comparable" if upstream in reserved else f"{len(cards)} of {len(TASKS)} tasks"
            below.append(_board_row(Cell(upstream, strong=True, note=f"{OURS}, {why}"), MISSING, MISSING, values))
    ranked.sort(key=lambda pair: -pair[0])
    head = [Cell("upstream"), Cell("Score", note="↑"), Cell("Rank", note="↑")]
    for column in METRICS:
        head.append(Cell(column.split("_")[0], note=f"{metric_title(METRIC_OF[column])} {ARROWS[_BETTER[column]]}"))
    return Table(head, [*(cells for _, cells in ranked), *below], wide=True)


def partial_tables(collection: Collection, reserved: Mapping[str, str]) -> list[tuple[list[str], Table]]:
    """For each set of tasks that official rows without all ten cover: (tasks, published and own mean points over them)."""
    sets: dict[tuple[str, ...], list[tuple[str, dict[str, float]]]] = {}
    for upstream, row in collection.results.items():
        cards = board_cards(row)
        if cards and upstream not in reserved and len(cards) < len(TASKS):
            tasks = tuple(task for task in TASKS if task in cards)
            sets.setdefault(tasks, []).append((upstream, board_values(cards)))
    tables = []
    for tasks, own in sets.items():
        rows = [(points, Cell(entry.name)) for entry, points in leaderboard(tasks)]
        rows += [(partial_score(values), Cell(name, strong=True, note=OURS)) for name, values in own]
        rows.sort(key=lambda pair: -pair[0])
        body = [[name, Cell(f"{points:.0f}")] for points, name in rows]
        tables.append((list(tasks), Table([Cell("upstream"), Cell("mean points")], body)))
    return tables


def comparison_table(collection: Collection, first: str, second: str) -> Table:
    """Every metric that both upstreams have: both figures, the second minus the first, and that relative to the first."""
    rows = []
    for column in collection.columns:
        pair = [collection.results[name].get(column.task) for name in (first, second)]
        if any(result is None or column.metric not in result.card.metrics for result in pair):
            continue
        one, other = (result for result in pair if result is not None)
        before, after = (result.card.metrics[column.metric]["value"] for result in (one, other))
        relative = f"{100 * (after - before) / abs(before):+.1f} %" if before else MISSING
        rows.append(
            [
                Cell(f"{column.task} {metric_title(column.metric)} {ARROWS[column.better]}"),
                Cell(with_deviation(one, column.metric), note=_count(one)),
                Cell(with_deviation(other, column.metric), note=_count(other)),
                Cell(f"{after - before:+.{DECIMALS}f}"),
                Cell(relative),
                Cell(_outcome(column, one, other)),
            ]
        )
    names = ("metric", first, second, "difference", "relative", f"{second} is")
    return Table([Cell(name) for name in names], rows, wide=True)


def _outcome(column: Column, one: Result, other: Result) -> str:
    before, after = (result.card.metrics[column.metric]["value"] for result in (one, other))
    if figure(before) == figure(after):
        return "level"
    deviations = [result.deviation(column.metric) for result in (one, other)]
    spread = sum(deviation**2 for deviation in deviations if deviation is not None) ** 0.5
    word = "better" if (after < before) == (column.better == "lower") else "worse"
    return f"{word}, within the spread" if abs(after - before) <= spread else word


def _board_row(name: Cell, own_score: str, own_rank: str, values: Mapping[str, float]) -> list[Cell]:
    figures = [Cell(figure(values[column]) if column in values else MISSING) for column in METRICS]
    return [name, Cell(own_score), Cell(own_rank), *figures]


def _best(collection: Collection, column: Column) -> str | None:
    """The best figure of a column as the table shows it; None without a contest."""
    values = [
        row[column.task].card.metrics[column.metric]["value"]
        for row in collection.results.values()
        if column.task in row and column.metric in row[column.task].card.metrics
    ]
    if len(values) < 2:
        return None
    return figure(min(values) if column.better == "lower" else max(values))


def _shown(row: Mapping[str, Result], column: Column) -> str | None:
    result = row.get(column.task)
    if result is None or column.metric not in result.card.metrics:
        return None
    return figure(result.card.metrics[column.metric]["value"])


def _count(result: Result) -> str:
    return f"n = {len(result.cards)}" if len(result.cards) > 1 else ""


def _chance(collection: Collection, column: Column) -> str | None:
    for row in collection.results.values():
        metrics = row[column.task].card.metrics if column.task in row else {}
        if column.metric in metrics and "chance" in metrics[column.metric]:
            return figure(metrics[column.metric]["chance"])
    return None


def _test_sizes(collection: Collection, column: Column) -> str:
    # Upstreams scored on different test sets cannot be compared; showing all numbers makes that visible.
    rows: Sequence[Mapping[str, Result]] = list(collection.results.values())
    sizes = dict.fromkeys(row[column.task].card.corpus["utterances"] for row in rows if column.task in row)
    return " / ".join(f"{size:,}" for size in sizes) or MISSING
