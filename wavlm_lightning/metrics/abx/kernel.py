"""Compiled loops of ABX: dynamic time warping of many pairs of stretches, and the count of wrong triples.

Importing it imports numba, which takes a second. No fast-math: equal distances must stay equal.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, and cache the machine code where a folder is writable."""
    try:
        return numba.njit(function, nogil=True, cache=True)
    except RuntimeError:  # neither the installation nor the home folder is writable
        return numba.njit(function, nogil=True)


@compiled
def warped_distance(frames: np.ndarray, costs: np.ndarray) -> float:
    """Mean cost along the cheapest path through distances of frames `(rows, columns)`.

    Steps (1, 0), (0, 1) and (1, 1); the costs of all visited cells are added, and divided by their number. Of equal ways back
    the diagonal is taken, then the step to the left.

    Args:
        frames: distances of the frames of two stretches.
        costs: float64, at least as large; overwritten.
    """
    rows, columns = frames.shape
    costs[0, 0] = frames[0, 0]
    for j in range(1, columns):
        costs[0, j] = costs[0, j - 1] + frames[0, j]
    for i in range(1, rows):
        costs[i, 0] = costs[i - 1, 0] + frames[i, 0]
        for j in range(1, columns):
            costs[i, j] = frames[i, j] + min(costs[i - 1, j - 1], costs[i, j - 1], costs[i - 1, j])
    i, j, length = rows - 1, columns - 1, 1
    while i > 0 and j > 0:
        diagonal, left, up = costs[i - 1, j - 1], costs[i, j - 1], costs[i - 1, j]
        if diagonal <= left and diagonal <= up:
            i, j = i - 1, j - 1
        elif left <= up:
            j -= 1
        else:
            i -= 1
        length += 1
    return costs[rows - 1, columns - 1] / (length + i + j)


@compiled
def fill_distances(
    frames: np.ndarray,  # distances of all frames of some x to all frames of some others `(x frames, other frames)`
    rows: np.ndarray,  # first frame of each x, and the number of frames, int64 `(x + 1,)`
    columns: np.ndarray,  # of each other, int64 `(others + 1,)`
    costs: np.ndarray,  # float64, at least the longest x by the longest other; overwritten
    distances: np.ndarray,  # float64 `(x, others)`, written
) -> None:
    """The warped distance of every x to every other stretch."""
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            distances[i, j] = warped_distance(frames[rows[i] : rows[i + 1], columns[j] : columns[j + 1]], costs)


@compiled
def fill_unit_distances(
    x: np.ndarray,  # units of all frames of some x `(x frames,)`
    others: np.ndarray,  # `(other frames,)`
    rows: np.ndarray,
    columns: np.ndarray,
    costs: np.ndarray,
    distances: np.ndarray,
) -> None:
    """As `fill_distances`; two frames have distance 0 if their units are equal, else 1."""
    frames = np.empty(costs.shape)
    for i in range(len(rows) - 1):
        for j in range(len(columns) - 1):
            one, other = x[rows[i] : rows[i + 1]], others[columns[j] : columns[j + 1]]
            for k in range(len(one)):
                for n in range(len(other)):
                    frames[k, n] = 0.0 if one[k] == other[n] else 1.0
            distances[i, j] = warped_distance(frames[: len(one), : len(other)], costs)


@compiled
def count_errors(distances: np.ndarray, cells: np.ndarray, same: bool, errors: np.ndarray) -> None:
    """Share of triples (a, b, x) in which b is nearer to x than a is, half of one if both are as near.

    Args:
        distances: of each x to each other stretch, `(x, others)`.
        cells: the a's and the b's of each cell: first of each and the one after the last, int64 `(cells, 4)`.
        same: the a's are the x's in the same order; none is compared with itself.
        errors: float64 `(cells,)`, written.
    """
    for cell in range(len(cells)):
        a_begin, a_end, b_begin, b_end = cells[cell]
        wrong, triples = 0.0, 0
        for x in range(len(distances)):
            for a in range(a_begin, a_end):
                if same and a - a_begin == x:
                    continue
                for b in range(b_begin, b_end):
                    if distances[x, a] > distances[x, b]:
                        wrong += 1.0
                    elif distances[x, a] == distances[x, b]:
                        wrong += 0.5
                    triples += 1
        errors[cell] = wrong / triples
