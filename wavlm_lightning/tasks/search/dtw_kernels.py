"""Compiled loops of subsequence dynamic time warping on the CPU; imported only where they run, for numba takes a second.

They read what a matrix product left in the cache row by row: distance, scaling and recurrence of a row follow one another
while it is in the first-level cache, and nothing but the cost of a path is written back.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np

COSINE_EXP, COSINE, EUCLIDEAN, CITYBLOCK = range(4)
ZERO, ONE, INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)
RANGE_FLOOR = 1e-9
FLAT = np.float32(1e-2)
"""Rows whose distances differ by less than this share of their size are computed again in double precision: single
precision is good for seven digits, and scaling such a row to 0...1 would leave less than five."""
CANCELLED = np.float32(0.1)
"""Squared distances under this share of |q|² + |d|² are computed again from the frames, for the same reason."""
# Infinities stay allowed: they stand for places that no path comes from.
FAST = {"nnan", "nsz", "arcp", "contract", "reassoc"}
(C2, C3, C4, C5, C6, C7, C8, C9, C10, C11) = (
    np.float32(1 / value) for value in (2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800)
)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile without the interpreter's lock, and keep the machine code where some folder may be written to."""
    try:
        return numba.njit(function, nogil=True, cache=True, fastmath=FAST)
    except RuntimeError:  # an installation that is read-only, and no home either
        return numba.njit(function, nogil=True, fastmath=FAST)


@compiled
def _exponential(x: np.float32) -> np.float32:
    """exp(x) for x in [-1, 1] by its series, which compiles to vector instructions; the rest is under 3e-9."""
    tail = C6 + x * (C7 + x * (C8 + x * (C9 + x * (C10 + x * C11))))
    return ONE + x * (ONE + x * (C2 + x * (C3 + x * (C4 + x * (C5 + x * tail)))))


@compiled
def _exactly(query: np.ndarray, frame: np.ndarray, distance: int) -> float:
    """Distance of two frames `(dim,)` in double precision."""
    total = 0.0
    if distance <= COSINE:
        for k in range(len(query)):
            total += np.float64(query[k]) * np.float64(frame[k])
        return np.expm1(1.0 - total) if distance == COSINE_EXP else 1.0 - total
    for k in range(len(query)):
        difference = np.float64(query[k]) - np.float64(frame[k])
        total += difference * difference if distance == EUCLIDEAN else abs(difference)
    return np.sqrt(total) if distance == EUCLIDEAN else total


@compiled
def _scale_exactly(query: np.ndarray, frames: np.ndarray, distance: int, scaled: np.ndarray) -> None:
    """Scaled distances of a query frame `(dim,)` to frames `(frames, dim)`, all of it in double precision."""
    exact = np.empty(len(frames))
    for j in range(len(frames)):
        exact[j] = _exactly(query, frames[j], distance)
    low = exact.min()
    scale = 1.0 / max(exact.max() - low, RANGE_FLOOR)
    for j in range(len(frames)):
        scaled[j] = np.float32((exact[j] - low) * scale)


@compiled
def _extremes(row: np.ndarray) -> tuple[np.float32, np.float32]:
    low = high = row[0]
    for j in range(len(row)):
        low, high = min(low, row[j]), max(high, row[j])
    return low, high


@compiled
def _euclidean(row: np.ndarray, query: np.ndarray, frames: np.ndarray, square: np.float32, squares: np.ndarray) -> None:
    """Turn products of a query frame into distances, in place."""
    two, cancelled = np.float32(2), 0
    for j in range(len(row)):
        both = square + squares[j]
        row[j] = both - two * row[j]
        cancelled += row[j] < CANCELLED * both
    if cancelled:
        for j in range(len(row)):
            if row[j] < CANCELLED * (square + squares[j]):
                exact = np.float32(_exactly(query, frames[j], EUCLIDEAN))
                row[j] = exact * exact
    for j in range(len(row)):
        row[j] = np.sqrt(row[j])


@compiled
def _scale(row: np.ndarray, query: np.ndarray, frames: np.ndarray, distance: int, scaled: np.ndarray) -> None:
    """From a row of cosines, or of distances, to distances between 0 and 1; rounding must not make one negative."""
    low, high = _extremes(row)
    size = ONE if distance <= COSINE else high
    if high - low <= FLAT * size:
        _scale_exactly(query, frames, distance, scaled)
    elif distance == COSINE_EXP:
        # exp(1 - c) - 1, scaled: what is constant, e and 1, falls out.
        least = _exponential(-high)
        scale = ONE / (_exponential(-low) - least)
        for j in range(len(row)):
            scaled[j] = max(ZERO, (_exponential(-row[j]) - least) * scale)
    elif distance == COSINE:
        scale = ONE / (high - low)
        for j in range(len(row)):
            scaled[j] = max(ZERO, (high - row[j]) * scale)
    else:
        scale = ONE / (high - low)
        for j in range(len(row)):
            scaled[j] = max(ZERO, (row[j] - low) * scale)


@compiled
def block_costs(
    products: np.ndarray,
    queries: np.ndarray,
    query_starts: np.ndarray,
    query_squares: np.ndarray,
    frames: np.ndarray,
    frame_starts: np.ndarray,
    frame_squares: np.ndarray,
    distance: int,
    costs: np.ndarray,
) -> None:
    """Cost per query frame of the cheapest way of some queries through some documents, of one layer.

    Args:
        products: of query frames and document frames, float32 `(query frames, document frames)`; overwritten.
        queries: float32 `(query frames, dim)`.
        query_starts: first row of each query, and their number, int64 `(queries + 1,)`.
        query_squares: squared length of every query frame, float32 `(query frames,)`; read for `euclidean` alone.
        frames: float32 `(document frames, dim)`.
        frame_starts: first frame of each document, and their number, int64 `(documents + 1,)`.
        frame_squares: squared length of every document frame.
        distance: `COSINE_EXP`, `COSINE`, `EUCLIDEAN`, or `CITYBLOCK`, whose `products` are the distances.
        costs: float32 `(queries, documents)`, written.
    """
    for document in range(len(frame_starts) - 1):
        first, last = frame_starts[document], frame_starts[document + 1]
        there, width = frames[first:last], last - first
        scaled = np.empty(width, np.float32)
        # Two columns that no path comes from stand before the first frame.
        paths, before = np.full((2, width + 2), INFINITY, np.float32)
        for number in range(len(query_starts) - 1):
            before[:] = INFINITY
            before[2:] = 0
            begin, end = query_starts[number], query_starts[number + 1]
            for i in range(begin, end):
                row = products[i, first:last]
                if distance == EUCLIDEAN:
                    _euclidean(row, queries[i], there, query_squares[i], frame_squares[first:last])
                _scale(row, queries[i], there, distance, scaled)
                if i == begin:
                    for j in range(width):
                        paths[j + 2] = scaled[j]
                else:
                    for j in range(width):
                        paths[j + 2] = scaled[j] + min(before[j + 2], before[j + 1], before[j])
                paths, before = before, paths
            cheapest = before[2]
            for j in range(width):
                cheapest = min(cheapest, before[j + 2])
            costs[number, document] = cheapest / np.float32(end - begin)


@compiled
def cityblock(queries: np.ndarray, frames: np.ndarray, distances: np.ndarray) -> None:
    """Sums of absolute differences of `(query frames, dim)` and `(document frames, dim)`."""
    whole = len(queries) - len(queries) % 4
    for j in range(len(frames)):
        frame = frames[j]
        for i in range(0, whole, 4):  # four at a time read a frame once
            one, two, three, four = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for k in range(len(frame)):
                one += abs(queries[i, k] - frame[k])
                two += abs(queries[i + 1, k] - frame[k])
                three += abs(queries[i + 2, k] - frame[k])
                four += abs(queries[i + 3, k] - frame[k])
            distances[i, j], distances[i + 1, j] = one, two
            distances[i + 2, j], distances[i + 3, j] = three, four
        for i in range(whole, len(queries)):
            one = np.float32(0)
            for k in range(len(frame)):
                one += abs(queries[i, k] - frame[k])
            distances[i, j] = one
