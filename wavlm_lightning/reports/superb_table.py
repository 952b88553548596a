"""SUPERB's table (upstreams by tasks), Score and Rank of our rows, and their place among the published ones."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from wavlm_lightning.metrics.superb import METRICS, TASKS, leaderboard, partial_score, published_entries, rank, score
from wavlm_lightning.reports.cards import ResultCard, percent
from wavlm_lightning.reports.tables import ARROWS, MISSING, Cell, Table, metric_title

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


def superb_table(results: Results, tasks: Sequence[str]) -> Table:
    """Make the table: one row per upstream, one column per metric of the board, the best of each column in bold."""
    columns = columns_of(tasks)
    rows = {upstream: board_values(cards) for upstream, cards in results.items()}
    # The direction is the same on every card of a task.
    better = {
        column: cards[task].metrics[METRIC_OF[column]]["better"]
        for cards in results.values()
        for task in TASKS.keys() & cards.keys()
        for column in TASKS[task]
    }
    body = []
    for upstream, values in rows.items():
        row = [Cell(upstream)]
        for column in columns:
            if column not in values:
                row.append(Cell(MISSING))
                continue
            rivals = [other[column] for other in rows.values() if column in other]
            best = (max if better[column] == "higher" else min)(rivals)
            row.append(Cell(f"{values[column]:.2f}", strong=len(rivals) > 1 and values[column] == best))
        body.append(row)
    return Table([Cell("upstream"), *(board_column(column, better.get(column, "")) for column in columns)], body)


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
