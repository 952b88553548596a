"""SUPERB's table (upstreams by tasks), Score and Rank of our rows, and their place among the published ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from wavlm_lightning.metrics.superb import METRICS, TASKS, leaderboard, partial_score, published_entries, rank, score
from wavlm_lightning.reports.cards import ResultCard
from wavlm_lightning.reports.tables import ARROWS, MISSING, Cell, Table, metric_title

METRIC_OF: dict[str, str] = {
    "PR": "per",
    "KS": "accuracy",
    "IC": "accuracy",
    "SID": "accuracy",
    "ER": "accuracy",
    "ASR": "wer",
    "QbE": "mtwv",
    "SF_F1": "f1",
    "SF_CER": "cer",
    "SV": "eer",
    "SD": "der",
}
"""Column of the board -> the name of that metric on our cards."""

Results = Mapping[str, Mapping[str, ResultCard]]
"""Upstream to task ("PR", "KS", ...) to card."""


def columns_of(tasks: Sequence[str]) -> list[str]:
    """The board's columns of some tasks, in the board's order."""
    return [metric for task in TASKS if task in tasks for metric in TASKS[task]]


def board_values(cards: Mapping[str, ResultCard]) -> dict[str, float]:
    """One row of the board in percent: column -> value, from the cards of an upstream."""
    return {
        column: cards[task].metrics[METRIC_OF[column]]["value"]
        for task, columns in TASKS.items()
        if task in cards
        for column in columns
    }


def superb_table(results: Results, tasks: Sequence[str]) -> Table:
    """Make the table: one row per upstream, one column per metric of the board, the best of each column in bold."""
    columns = columns_of(tasks)
    rows = {upstream: board_values(cards) for upstream, cards in results.items()}
    # Unit and direction are the same on every card of a task.
    main = {
        column: next(cards[task].metrics[METRIC_OF[column]] for cards in results.values() if task in cards)
        for task, some in TASKS.items()
        if any(task in cards for cards in results.values())
        for column in some
    }
    head = [Cell("upstream")]
    for column in columns:
        label = metric_title(METRIC_OF[column])
        head.append(
            Cell(column.split("_")[0], note=f"{label} {ARROWS[main[column]['better']]}" if column in main else "")
        )
    body = []
    for upstream, values in rows.items():
        row = [Cell(upstream)]
        for column in columns:
            if column not in values:
                row.append(Cell(MISSING))
                continue
            sign = 1 if main[column]["better"] == "higher" else -1
            rivals = [other[column] for other in rows.values() if column in other]
            best = len(rivals) > 1 and sign * values[column] >= max(sign * value for value in rivals)
            row.append(Cell(f"{values[column]:.2f}", strong=best))
        body.append(row)
    return Table(head, body)


def board_verdict(results: Results, reservation: str | None = None) -> list[str]:
    """Compare each upstream with the published rows, in a sentence or two; `reservation` says why that is not fair."""
    if reservation is not None:
        return [f"Not comparable with the published rows, so without Score and Rank: {reservation}."]
    lines = []
    shown = [entry for entry in published_entries() if entry.shown]
    for upstream, cards in results.items():
        values = board_values(cards)
        if not values:
            continue
        if len(cards) == len(TASKS):
            own = score(values)
            place = 1 + sum(entry.score is not None and entry.score > own for entry in shown)
            lines.append(
                f"{upstream}: SUPERB Score {own}, Rank {rank(values):.2f} against the 24 published entries; by Score it "
                f"would be at place {place} of {len(shown) + 1}."
            )
            continue
        tasks = [task for task in TASKS if task in cards]
        own_points = partial_score(values)
        board = leaderboard(tasks)
        place = 1 + sum(mean > own_points for _, mean in board)
        lines.append(
            f"{upstream}: {len(tasks)} of {len(TASKS)} tasks ({', '.join(tasks)}), so there is no official Score; mean points "
            f"over these {own_points:.0f}, place {place} of {len(board) + 1} over the same tasks "
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
