"""SUPERB's table (upstreams by tasks), Score and Rank of our rows, and their place among the published ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from wavlm_lightning.metrics.superb import METRICS, TASKS, leaderboard, partial_score, published_entries, rank, score
from wavlm_lightning.reports.cards import ResultCard, percent
from wavlm_lightning.reports.significance import BOLD, Measured, leader, small_tests
from wavlm_lightning.reports.tables import ARROWS, MISSING, Cell, Table, metric_title
from wavlm_lightning.reports.utterances import UtteranceResults

# Column of the board -> the name of that metric on our cards.
METRIC_OF: dict[str, str] = {
    "PR": "per", "KS": "accuracy", "IC": "accuracy", "SID": "accuracy", "ER": "accuracy", "ASR": "wer",
    "QbE": "mtwv", "SF_F1": "f1", "SF_CER": "cer", "SV": "eer", "SD": "der",
}  # fmt: skip
Results = Mapping[str, Mapping[str, ResultCard]]  # upstream -> task ("PR", "KS", ...) -> card


def columns_of(tasks: Sequence[str]) -> list[str]:
    """The board's columns of some tasks, in the board's order."""
    return [metric for task in TASKS if task in tasks for metric in TASKS[task]]


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
    results: Results,
    tasks: Sequence[str],
    utterances: Mapping[str, Mapping[str, UtteranceResults | None]] | None = None,
) -> Table:
    """Make the table: one row per upstream, one column per metric of the board.

    `utterances` has the results of the utterances behind each card (upstream -> task -> results), for 95 % intervals and
    paired tests. Bold is a figure ahead of all others of its column and above chance, see `significance.leader`.
    """
    columns = columns_of(tasks)
    rows: dict[str, dict[str, Measured]] = {
        upstream: {
            column: _measured(cards[task], column, (utterances or {}).get(upstream, {}).get(task))
            for task, board in TASKS.items()
            if task in cards
            for column in board
        }
        for upstream, cards in results.items()
    }
    best: dict[str, str | None] = {}
    better: dict[str, str] = {}
    for column in columns:
        figures = {upstream: row[column] for upstream, row in rows.items() if column in row}
        best[column] = leader(figures)
        better[column] = next((figure.metric["better"] for figure in figures.values()), "")
    rates = {
        column: {cards[task].rates_tried or 1 for cards in results.values() if task in cards}
        for task, board in TASKS.items()
        for column in board
    }
    body = []
    for upstream, row in rows.items():
        cells = [Cell(upstream)]
        for column in columns:
            if (figure := row.get(column)) is None:
                cells.append(Cell(MISSING))
                continue
            tried = results[upstream][_task_of(column)].rates_tried or 1
            marks = [figure.interval_text, f"{tried} rate{'' if tried == 1 else 's'}" if len(rates[column]) > 1 else ""]
            cells.append(Cell(figure.text, upstream == best[column], ", ".join(filter(None, marks))))
        body.append(cells)
    return Table([Cell("upstream"), *(board_column(column, better[column]) for column in columns)], body)


def superb_notes(results: Results, utterances: Mapping[str, Mapping[str, UtteranceResults | None]]) -> list[str]:
    """What a reader of the table must know: brackets, bold, small test sets."""
    measured = [
        (task, cards[task].corpus["utterances"], _measured(cards[task], column, utterances.get(upstream, {}).get(task)))
        for upstream, cards in results.items()
        for task, board in TASKS.items()
        if task in cards
        for column in board[:1]
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


def _task_of(column: str) -> str:
    return next(task for task, board in TASKS.items() if column in board)


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
    for upstream, cards in results.items():
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


def superb_csv(results: Results) -> str:
    """The same table as CSV, with the columns of the published table."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["Method", *METRICS])
    for upstream, cards in results.items():
        values = board_values(cards)
        writer.writerow([upstream, *(f"{values[m]:.4f}" if m in values else "" for m in METRICS)])
    return buffer.getvalue()
