"""The table of a suite (upstreams by tasks), Score and Rank of our rows, and their place among SUPERB's published ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wavlm_lightning.metrics.superb import METRICS, TASKS, leaderboard, partial_score, published_entries, rank, score
from wavlm_lightning.reports.cards import DECIMALS, ResultCard, percent
from wavlm_lightning.reports.significance import BOLD, Measured, leader, small_tests
from wavlm_lightning.reports.tables import ARROWS, MISSING, Cell, Table, metric_title
from wavlm_lightning.reports.utterances import UtteranceResults

# Column of the board -> the name of that metric on our cards.
METRIC_OF: dict[str, str] = {
    "PR": "per", "KS": "accuracy", "IC": "accuracy", "SID": "accuracy", "ER": "accuracy", "ASR": "wer",
    "QbE": "mtwv", "SF_F1": "f1", "SF_CER": "cer", "SV": "eer", "SD": "der",
}  # fmt: skip
Results = Mapping[str, Mapping[str, ResultCard]]  # upstream -> task ("PR", "KS", ...) -> card
Utterances = Mapping[str, Mapping[str, UtteranceResults | None]]  # upstream -> task -> results of its test utterances


@dataclass(frozen=True)
class Column:
    """A column of the table: a metric of SUPERB's board, in percent, or a headline of another task, in its own unit."""

    task: str
    metric: str  # its name on cards
    board: str = ""  # the board's name of it; empty for other tasks
    unit: str = ""

    @property
    def title(self) -> str:
        """Its name in CSV files: the board's, or task, metric and unit."""
        return self.board or f"{self.task}_{self.metric}" + (f" ({self.unit})" if self.unit else "")

    def measured(self, card: ResultCard, utterances: UtteranceResults | None = None) -> Measured | None:
        """The figure of a card; None if the card lacks the metric, as only one of another task may."""
        if self.board:
            return _measured(card, self.board, utterances)
        if self.metric not in card.metrics:
            return None
        main = self.metric == card.headline
        given = card.interval if main else card.intervals.get(self.metric)
        return Measured(card.metrics[self.metric], utterances if main else None, given=given)


def all_columns(results: Results, tasks: Sequence[str]) -> list[Column]:
    """The columns of some tasks: SUPERB's in the order of the board, then the headlines of the others in the order given."""
    board = [Column(task, METRIC_OF[name], name) for task in TASKS if task in tasks for name in TASKS[task]]
    others: dict[tuple[str, str], Column] = {}
    for task in tasks:
        for card in (cards[task] for cards in results.values() if task in cards and task not in TASKS):
            for name in card.shown:
                others.setdefault((task, name), Column(task, name, unit=card.metrics[name]["unit"]))
    return [*board, *others.values()]


def board_column(column: str, better: str) -> Cell:
    """The head of a column of the board: its task, and below it the metric with its direction (none if unknown)."""
    note = f"{metric_title(METRIC_OF[column])} {ARROWS[better]}" if better else ""
    return Cell(column.split("_")[0], note=note)


def board_values(cards: Mapping[str, ResultCard]) -> dict[str, float]:
    """One row of the board in percent: column -> value, from the cards of an upstream."""
    return {
        column: percent(cards[task].metrics[METRIC_OF[column]])
        for task, columns in TASKS.items()
        if task in cards
        for column in columns
    }


def superb_table(
    results: Results, tasks: Sequence[str], utterances: Utterances | None = None, *, chance: bool = False
) -> Table:
    """Make the table: one row per upstream, one column per metric of the board and per headline of another task.

    `utterances` has the results of the utterances behind each card, for 95 % intervals and paired tests. Bold is a figure ahead
    of all others of its column and above chance, see `significance.leader`. `chance` adds a row of what guessing scores.
    """
    columns = all_columns(results, tasks)
    rows: dict[str, dict[Column, Measured]] = {}
    for upstream, cards in results.items():
        known = (utterances or {}).get(upstream, {})
        found = {c: c.measured(cards[c.task], known.get(c.task)) for c in columns if c.task in cards}
        rows[upstream] = {column: figure for column, figure in found.items() if figure is not None}
    best: dict[Column, str | None] = {}
    head = [Cell("upstream")]
    for column in columns:
        figures = {upstream: row[column] for upstream, row in rows.items() if column in row}
        best[column] = leader(
            {name: each for name, each in figures.items() if not results[name][column.task].is_control}
        )
        better = next((figure.metric["better"] for figure in figures.values()), "")
        head.append(board_column(column.board, better) if column.board else _column_cell(column, better))
    rates = {task: {cards[task].rates_tried or 1 for cards in results.values() if task in cards} for task in tasks}
    body = []
    for upstream, row in rows.items():
        cells = [Cell(upstream)]
        for column in columns:
            if (figure := row.get(column)) is None:
                cells.append(Cell(MISSING))
                continue
            tried = results[upstream][column.task].rates_tried or 1
            several = len(rates[column.task]) > 1
            marks = [figure.interval_text, f"{tried} rate{'' if tried == 1 else 's'}" if several else ""]
            cells.append(Cell(figure.text, upstream == best[column], ", ".join(filter(None, marks))))
        body.append(cells)
    foot = [[Cell("chance"), *(Cell(_chance(column, rows)) for column in columns)]] if chance else []
    return Table(head, body, foot=foot)


def _column_cell(column: Column, better: str) -> Cell:
    measure = " ".join(filter(None, [metric_title(column.metric), column.unit, ARROWS[better]]))
    return Cell(column.task, note=measure)


def _chance(column: Column, rows: Mapping[str, Mapping[Column, Measured]]) -> str:
    metrics = (row[column].metric for row in rows.values() if column in row)
    return next((f"{m['chance']:.{m.get('decimals', DECIMALS)}f}" for m in metrics if "chance" in m), MISSING)


def superb_notes(results: Results, utterances: Utterances) -> list[str]:
    """What a reader of the table must know: brackets, bold, small test sets."""
    columns = all_columns(results, list(dict.fromkeys(task for cards in results.values() for task in cards)))
    first: dict[str, Column] = {}  # of each task
    for column in columns:
        first.setdefault(column.task, column)
    measured = [
        (task, cards[task].corpus["utterances"], figure)
        for upstream, cards in results.items()
        for task, column in first.items()
        if task in cards
        and (figure := column.measured(cards[task], utterances.get(upstream, {}).get(task))) is not None
    ]
    tasks = {task: count for task, count, _ in measured}
    found = small_tests([(task, count, [m for t, _, m in measured if t == task]) for task, count in tasks.items()])
    brackets = (
        "In brackets: 95 % interval, bootstrap over test utterances or speakers."
        if any(figure.interval is not None for _, _, figure in measured)
        else ""
    )
    bold = f"Bold: {BOLD}." if len(results) > 1 else ""
    return list(filter(None, [" ".join(filter(None, [brackets, bold])), found]))


def _measured(card: ResultCard, column: str, utterances: UtteranceResults | None) -> Measured:
    """A figure of the board, in percent like its column."""
    metric = card.metrics[METRIC_OF[column]]
    if metric["unit"] != "%":  # its interval is in another unit
        return Measured({"value": percent(metric), "unit": "%", "better": metric["better"]})
    same = METRIC_OF[column] == card.headline
    return Measured(metric, utterances if same else None, given=card.interval if same else None)


def board_verdict(results: Results, reservation: str | None = None) -> list[str]:
    """Compare each upstream with the published rows, in a sentence or two; `reservation` says why that is not fair."""
    if reservation is not None:
        return [f"Not comparable with the published rows, so without Score and Rank: {reservation}."]
    lines = []
    shown = [entry for entry in published_entries() if entry.shown]
    for upstream, row in results.items():
        cards = {task: card for task, card in row.items() if task in TASKS}
        if not (values := board_values(cards)):
            continue
        if len(cards) == len(TASKS):
            own = score(values)
            place = 1 + sum(entry.score is not None and entry.score > own for entry in shown)
            lines.append(
                f"{upstream}: SUPERB Score {own}, Rank {rank(values):.2f} against the 24 published entries; by Score it "
                f"would be at place {place} of {len(shown) + 1}."
            )
        else:
            tasks = [task for task in TASKS if task in cards]
            own_points, board = partial_score(values), leaderboard(tasks)
            place = 1 + sum(mean > own_points for _, mean in board)
            lines.append(
                f"{upstream}: {len(tasks)} of {len(TASKS)} tasks ({', '.join(tasks)}), so there is no official Score; "
                f"mean points over these {own_points:.0f}, place {place} of {len(board) + 1} over the same tasks "
                f"({board[0][0].name} leads with {board[0][1]:.0f})."
            )
    return lines


def no_board(results: Results) -> list[str]:
    """Name the tasks that no published leaderboard has, as a sentence of its own; none if all are SUPERB's."""
    others = [*dict.fromkeys(task for cards in results.values() for task in cards if task not in TASKS)]
    if not others:
        return []
    names = others[0] if len(others) == 1 else f"{', '.join(others[:-1])} and {others[-1]}"
    verb = "has" if len(others) == 1 else "have"
    return [f"{names} {verb} no published leaderboard here: compare the rows of this table."]


def superb_csv(results: Results) -> str:
    """The same table as CSV: the columns of the published table, then those of other tasks in their own units."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    others = [c for c in all_columns(results, [*{t: None for row in results.values() for t in row}]) if not c.board]
    writer.writerow(["Method", *METRICS, *(column.title for column in others)])
    for upstream, cards in results.items():
        values = board_values(cards)
        row = [f"{values[m]:.4f}" if m in values else "" for m in METRICS]
        for column in others:
            metric = cards[column.task].metrics.get(column.metric) if column.task in cards else None
            row.append("" if metric is None else f"{metric['value']:.4f}")
        writer.writerow([upstream, *row])
    return buffer.getvalue()
