"""Regions of speech or of overlap: from frame scores by hysteresis thresholds and minimum durations, and from speaker turns."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Region(NamedTuple):
    """A stretch of time, in seconds."""

    start: float
    end: float


def regions_of_scores(
    scores: np.ndarray,
    rate: float,
    onset: float,
    offset: float | None = None,
    shortest: float = 0.0,
    shortest_gap: float = 0.0,
    centre: float | None = None,
) -> np.ndarray:
    """Regions where a score is high, float64 `(regions, 2)` of starts and ends in seconds.

    A region begins at the first frame above `onset` and ends before the first one below `offset`. Then gaps shorter than
    `shortest_gap` are filled, and after that regions shorter than `shortest` are dropped, in the order of pyannote.audio.

    Args:
        scores: `(frames,)`, for instance probabilities.
        rate: frames per second.
        onset: a region begins where the score is above it.
        offset: a region goes on while the score is at least this; `onset` if left out.
        shortest: seconds of the shortest region that is kept.
        shortest_gap: seconds of the shortest gap that is kept.
        centre: seconds at which the first frame lies, by default half its period; it stands for half a period on either side.

    Raises:
        ValueError: scores with other than one dimension or that are not numbers, an offset above the onset, or a rate that is not
            positive.

    Example:
        >>> regions_of_scores(np.array([0.1, 0.9, 0.5, 0.1]), rate=10, onset=0.6, offset=0.4)
        array([[0.1, 0.3]])
    """
    scores = np.asarray(scores)
    if scores.ndim != 1:
        raise ValueError(f"regions_of_scores needs scores (frames,), got shape {scores.shape}")
    if not rate > 0:
        raise ValueError(f"the frame rate must be positive, got {rate}")
    if np.isnan(scores).any():
        raise ValueError("a score is not a number")
    offset = onset if offset is None else offset
    centre = 0.5 / rate if centre is None else centre
    if offset > onset:
        raise ValueError(f"the offset {offset:g} must not be above the onset {onset:g}")
    # Between the two thresholds a frame keeps the state of the last one outside them; at the start the state is off.
    decided = (scores > onset) | (scores < offset)
    last = np.maximum.accumulate(np.where(decided, np.arange(len(scores)), -1))
    on = np.where(last >= 0, scores[last] > onset, False) if len(scores) else np.zeros(0, bool)
    # In whole frames, so that a gap of exactly the shortest is kept.
    gap, length = (math.ceil(seconds * rate - 1e-6) for seconds in (shortest_gap, shortest))
    regions = np.stack(_lasting_runs(on, gap, length), axis=1) / rate
    # Half a period before the middle of the first frame may lie before the recording.
    return np.maximum(regions + (centre - 0.5 / rate), 0.0)


def smoothed(active: np.ndarray, longest_gap: int, shortest: int) -> np.ndarray:
    """Activity without gaps of fewer than `longest_gap` frames, and then without stretches of fewer than `shortest` frames.

    Args:
        active: bool `(frames, speakers)`.
        longest_gap: 0 or 1 to fill none.
        shortest: 0 or 1 to drop none.
    """
    found = np.zeros_like(active)
    for column, own in enumerate(active.T):
        starts, ends = _lasting_runs(own, longest_gap, shortest)
        edges = np.zeros(len(active) + 1, dtype=np.int8)
        edges[starts] += 1
        edges[ends] -= 1
        found[:, column] = edges[:-1].cumsum().astype(bool)
    return found


def _lasting_runs(active: np.ndarray, gap: int, shortest: int) -> tuple[np.ndarray, np.ndarray]:
    """First frames of the runs of a bool `(frames,)`, and the frames behind them, without short gaps and then short runs."""
    change = np.diff(np.pad(active, 1).astype(np.int8))
    starts, ends = np.flatnonzero(change > 0), np.flatnonzero(change < 0)
    if len(starts) > 1 and gap > 1:
        kept = starts[1:] - ends[:-1] >= gap
        starts, ends = starts[np.r_[True, kept]], ends[np.r_[kept, True]]
    long = ends - starts >= shortest
    return starts[long], ends[long]


def regions_of_turns(turns: Iterable[Sequence[Any]], speakers: int = 1) -> np.ndarray:
    """Regions in which `speakers` or more talk, float64 `(regions, 2)` in order of time; regions that touch are one.

    Args:
        turns: `(speaker, start, end)` in seconds; overlapping turns of one speaker count once.
        speakers: 1 for speech, 2 for overlap.

    Example:
        >>> regions_of_turns([("anna", 0, 3), ("ben", 2, 5)], speakers=2)
        array([[2., 3.]])
    """
    own: dict[Any, list[tuple[float, float]]] = {}
    for speaker, start, end in turns:
        own.setdefault(speaker, []).append((float(start), float(end)))
    times, steps = [], []
    for stretches in own.values():
        for start, end in _joined(np.array(sorted(stretches))):
            times += [start, end]
            steps += [1, -1]
    if not times:
        return np.zeros((0, 2))
    at = np.unique(times)
    change = np.zeros(len(at), dtype=np.int64)
    np.add.at(change, np.searchsorted(at, times), steps)
    active = change.cumsum()[:-1] >= speakers
    return _joined(np.stack([at[:-1][active], at[1:][active]], axis=1))


def _joined(regions: np.ndarray) -> np.ndarray:
    """Regions `(n, 2)` in order of their starts, with those that overlap or touch joined, and empty ones dropped."""
    regions = regions[regions[:, 1] > regions[:, 0]]
    if not len(regions):
        return regions
    reach = np.maximum.accumulate(regions[:, 1])
    first = np.r_[True, regions[1:, 0] > reach[:-1]]
    return np.stack([regions[first, 0], reach[np.r_[np.flatnonzero(first)[1:] - 1, len(regions) - 1]]], axis=1)


def overlap_seconds(one: np.ndarray, other: np.ndarray) -> float:
    """Seconds that lie in regions of both `(n, 2)` and `(m, 2)`; neither has regions that overlap each other."""
    if not len(one) or not len(other):
        return 0.0
    # How much of `other` lies before a time is linear between its edges.
    edges = other.reshape(-1)
    before = np.repeat(np.r_[0.0, (other[:, 1] - other[:, 0]).cumsum()], 2)[1:-1]
    start, end = np.interp(one[:, 0], edges, before), np.interp(one[:, 1], edges, before)
    return float((end - start).sum())
