"""SUPERB Score and Rank, and the published leaderboard.

Definitions and reference points follow superbbenchmark.org (`overall_metrics.js`, `Data.js`). All values are percentages;
QbE is MTWV x 100.
"""

from __future__ import annotations

import csv
import functools
import math
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from importlib import resources

# Task -> its metrics.
TASKS: dict[str, tuple[str, ...]] = {
    "PR": ("PR",),
    "KS": ("KS",),
    "IC": ("IC",),
    "SID": ("SID",),
    "ER": ("ER",),
    "ASR": ("ASR",),
    "QbE": ("QbE",),
    "SF": ("SF_F1", "SF_CER"),
    "SV": ("SV",),
    "SD": ("SD",),
}
METRICS: tuple[str, ...] = tuple(metric for metrics in TASKS.values() for metric in metrics)

# Metric -> (value of 0 points: FBANK's, value of 1000 points: the best of the Interspeech 2021 rows). Lower is better
# where the first is larger. SID's 90.3 is right, although HuBERT Large has 90.33: the published Scores need it.
REFERENCE_POINTS: dict[str, tuple[float, float]] = {
    "PR": (82.01, 3.53),
    "KS": (41.3826674, 96.66),
    "IC": (9.649354219, 98.76),
    "SID": (20.058174, 90.3),
    "ER": (48.23672168, 67.62),
    "ASR": (23.18, 3.62),
    "QbE": (0.58, 7.36),
    "SF_F1": (69.64, 89.81),
    "SF_CER": (52.94, 21.76),
    "SV": (9.56, 5.11),
    "SD": (10.05, 5.62),
}


@dataclass(frozen=True)
class SuperbEntry:
    """One row of the leaderboard.

    Attributes:
        name: of the upstream.
        values: metric -> value in percent.
        shown: whether the table shows the row; six rows that it no longer shows count for Rank only.
        score: as published, None if not shown.
        rank: as published, None if not shown.
    """

    name: str
    values: Mapping[str, float]
    shown: bool = True
    score: int | None = None
    rank: float | None = None


@functools.cache
def published_entries() -> tuple[SuperbEntry, ...]:
    """The 24 entries of the published ranks, with the 18 that the table shows first."""
    text = resources.files("wavlm_lightning.metrics").joinpath("superb_leaderboard.csv").read_text(encoding="utf-8")
    return tuple(
        SuperbEntry(
            name=row["Method"],
            values={metric: float(row[metric]) for metric in METRICS},
            shown=row["shown"] == "1",
            score=int(row["Score"]) if row["Score"] else None,
            rank=float(row["Rank"]) if row["Rank"] else None,
        )
        for row in csv.DictReader(text.splitlines())
    )


def points(metric: str, value: float) -> float:
    """Points of a value in percent: 0 for FBANK's, 1000 for the best of 2021, linear and unbounded on both sides.

    Raises:
        ValueError: a metric that is not in `METRICS`, or a value that is not finite.

    Example:
        >>> points("PR", 3.53)
        1000.0
    """
    _check({metric: value})
    low, high = REFERENCE_POINTS[metric]
    return 1000 * (value - low) / (high - low)


def score(values: Mapping[str, float]) -> int:
    """SUPERB Score: mean points over the ten tasks, to the nearest integer (SF is the mean of its two metrics).

    Args:
        values: metric -> value in percent, of all `METRICS`.

    Raises:
        ValueError: a task is missing, an unknown metric, or a value that is not finite.

    Example:
        >>> score(published_entries()[0].values)  # WavLM Large
        1145
    """
    missing = sorted(set(TASKS) - set(_complete_tasks(values)), key=list(TASKS).index)
    if missing:
        raise ValueError(
            f"a SUPERB Score needs all ten tasks, missing {', '.join(missing)}; use partial_score for fewer"
        )
    return math.floor(partial_score(values) + 0.5)  # halves go up, as in JavaScript


def partial_score(values: Mapping[str, float]) -> float:
    """Mean points over the tasks present; compare it only with scores over the same tasks, see `leaderboard`.

    Args:
        values: metric -> value in percent, of at least one task; SF needs both of its metrics.

    Raises:
        ValueError: no complete task, an unknown metric, or a value that is not finite.
    """
    tasks = _complete_tasks(values)
    if not tasks:
        raise ValueError("a SUPERB score needs at least one task")
    return sum(_mean([points(metric, values[metric]) for metric in TASKS[task]]) for task in tasks) / len(tasks)


def rank(values: Mapping[str, float], pool: Iterable[SuperbEntry] | None = None) -> float:
    """SUPERB Rank: number of entries that are strictly worse, mean over the ten tasks (SF's two metrics averaged first).

    Higher is better. It depends on the pool: against the default one a new model's Rank compares with the published
    ones, from 0 to 24. If the pool contains the model itself, its Rank stays the same. A missing metric beats no entry.

    Args:
        values: metric -> value in percent.
        pool: entries to compare with; the 24 published ones if None.

    Raises:
        ValueError: an unknown metric, or a value that is not finite.
    """
    _check(values)
    pool = published_entries() if pool is None else tuple(pool)
    wins = {metric: sum(_worse(metric, entry.values, values) for entry in pool) for metric in METRICS}
    return sum(_mean([wins[metric] for metric in metrics]) for metrics in TASKS.values()) / len(TASKS)


def leaderboard(
    tasks: Collection[str] | None = None, entries: Iterable[SuperbEntry] | None = None
) -> list[tuple[SuperbEntry, float]]:
    """Entries and their mean points over some tasks, best first, to compare a partial score with.

    Args:
        tasks: keys of `TASKS`; all ten if None.
        entries: those to list, each with the tasks' metrics; the 18 of the published table if None.

    Raises:
        ValueError: no task, an unknown one, or an entry that lacks a metric.

    Example:
        >>> for entry, mean_points in leaderboard(["PR", "SID"]):
        ...     print(entry.name, round(mean_points))
    """
    tasks = list(TASKS) if tasks is None else list(tasks)
    unknown = [task for task in tasks if task not in TASKS]
    if unknown:
        raise ValueError(f"unknown SUPERB task {', '.join(unknown)}; choose from {', '.join(TASKS)}")
    metrics = [metric for task in tasks for metric in TASKS[task]]
    if entries is None:
        entries = [entry for entry in published_entries() if entry.shown]
    rows = []
    for entry in entries:
        missing = [metric for metric in metrics if metric not in entry.values]
        if missing:
            raise ValueError(f"{entry.name} has no {', '.join(missing)}, which these tasks need")
        rows.append((entry, partial_score({metric: entry.values[metric] for metric in metrics})))
    return sorted(rows, key=lambda row: -row[1])


def _complete_tasks(values: Mapping[str, float]) -> list[str]:
    """Tasks present, in the order of the leaderboard."""
    _check(values)
    for task, metrics in TASKS.items():
        given = [metric for metric in metrics if metric in values]
        if given and len(given) < len(metrics):
            raise ValueError(f"{task} is scored by {' and '.join(metrics)}, only {given[0]} is given")
    return [task for task, metrics in TASKS.items() if metrics[0] in values]


def _check(values: Mapping[str, float]) -> None:
    for metric, value in values.items():
        if metric not in REFERENCE_POINTS:
            raise ValueError(f"unknown SUPERB metric {metric!r}; choose from {', '.join(METRICS)}")
        if not math.isfinite(value):
            raise ValueError(f"{metric} must be a finite percentage, got {value}")


def _worse(metric: str, other: Mapping[str, float], own: Mapping[str, float]) -> bool:
    if metric not in own or metric not in other:
        return False
    low, high = REFERENCE_POINTS[metric]
    return other[metric] < own[metric] if low < high else other[metric] > own[metric]


def _mean(numbers: list[float]) -> float:
    return sum(numbers) / len(numbers)
