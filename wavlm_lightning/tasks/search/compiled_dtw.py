"""Subsequence dynamic time warping on the CPU: matrix products and loops compiled by numba, on all cores.

It gives the same costs as `subsequence_dtw.subsequence_costs`. The kernels process the matrix product row by row: distance,
scaling and recurrence of a row run while it is in the first-level cache, and only the cost of a path is written back.

Import it where it runs: importing numba takes a second.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from wavlm_lightning.tasks.search.subsequence_dtw import Distance, directions

# Approximate query and document frames of one matrix product: enough for full speed, few enough for the caches.
ROWS, COLUMNS = 1024, 512

COSINE_EXP, COSINE, EUCLIDEAN, CITYBLOCK = range(4)
KINDS: dict[str, int] = {"cosine_exp": COSINE_EXP, "cosine": COSINE, "euclidean": EUCLIDEAN, "cityblock": CITYBLOCK}
ZERO, ONE, INFINITY = np.float32(0), np.float32(1), np.float32(np.inf)
RANGE_FLOOR = 1e-9
# Rows whose distances differ by less than this share of their size are recomputed in double precision: single
# precision has seven digits, and scaling such a row to 0...1 would leave fewer than five.
FLAT = np.float32(1e-2)
# Squared distances under this share of |q|² + |d|² are recomputed from the frames, for the same reason.
CANCELLED = np.float32(0.1)
# numba's fast-math flags without `ninf`: infinities mark cells that no path reaches.
FAST = {"nnan", "nsz", "arcp", "contract", "reassoc"}
(C2, C3, C4, C5, C6, C7, C8, C9, C10, C11) = (
    np.float32(1 / value) for value in (2, 6, 24, 120, 720, 5040, 40320, 362880, 3628800, 39916800)
)


def compiled(function: Callable[..., Any]) -> Any:
    """Compile a kernel without the interpreter's lock, and cache its machine code where a folder is writable."""
    try:
        return numba.njit(function, nogil=True, cache=True, fastmath=FAST)
    except RuntimeError:  # neither the installation nor the home folder is writable
        return numba.njit(function, nogil=True, fastmath=FAST)


@compiled
def _exponential(x: np.float32) -> np.float32:
    """exp(x) for x in [-1, 1] by its series, which compiles to vector instructions; the error is under 3e-9."""
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
    """Scaled distances of a query frame `(dim,)` to frames `(frames, dim)`, computed in double precision."""
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
    """Scale a row of cosines or distances to distances in 0...1; `max` keeps rounding from making one negative."""
    low, high = _extremes(row)
    size = ONE if distance <= COSINE else high
    if high - low <= FLAT * size:
        _scale_exactly(query, frames, distance, scaled)
    elif distance == COSINE_EXP:
        # exp(1 - c) - 1, scaled: the constants e and 1 cancel.
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
    products: np.ndarray,  # of query and document frames, `(query frames, document frames)`; overwritten
    queries: np.ndarray,  # `(query frames, dim)`
    query_starts: np.ndarray,  # first row of each query, and the number of rows, int64 `(queries + 1,)`
    query_squares: np.ndarray,  # squared length of every query frame, for `EUCLIDEAN` alone
    frames: np.ndarray,  # `(document frames, dim)`
    frame_starts: np.ndarray,  # first frame of each document, and the number of frames, int64 `(documents + 1,)`
    frame_squares: np.ndarray,
    distance: int,  # for `CITYBLOCK`, `products` are the distances
    costs: np.ndarray,  # `(queries, documents)`, written
) -> None:
    """Cost of the cheapest path of some queries through some documents in one layer, divided by the query's frames."""
    for document in range(len(frame_starts) - 1):
        first, last = frame_starts[document], frame_starts[document + 1]
        there, width = frames[first:last], last - first
        scaled = np.empty(width, np.float32)
        # Two infinite columns before the first frame: paths cannot come from there.
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
        for i in range(0, whole, 4):  # four queries at a time, to read each frame once
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


_libraries = functools.cache(ThreadpoolController)  # finding the linear algebra libraries takes milliseconds


def _groups(starts: np.ndarray, size: int) -> list[slice]:
    """Runs of neighbours that have at least `size` frames together, as slices of `starts[:-1]`."""
    groups, begin = [], 0
    for end in range(1, len(starts)):
        if starts[end] - starts[begin] >= size or end == len(starts) - 1:
            groups.append(slice(begin, end))
            begin = end
    return groups


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


class CompiledQueries:
    """Queries, each `(frames, layers, dim)` on the CPU, prepared for search in any documents."""

    def __init__(self, queries: Sequence[Tensor], distance: Distance) -> None:
        self.distance: Distance = distance
        self.kind = KINDS[distance]
        frames = directions(torch.cat(list(queries)).float(), distance)
        self.frames = frames.transpose(0, 1).contiguous().numpy()
        self.starts = _starts([len(query) for query in queries])
        self.squares = self._squares(self.frames)

    @staticmethod
    def _squares(frames: np.ndarray) -> np.ndarray:
        return np.einsum("...d,...d->...", frames, frames)

    def costs(self, documents: Tensor, lengths: Tensor) -> Tensor:
        """As `wavlm_lightning.tasks.search.subsequence_dtw.subsequence_costs`.

        A document's frames are scaled to length 1 once, for all queries. One matrix product covers about a thousand query
        frames and 512 document frames, so the memory beside the features depends on the longest document and query alone.
        """
        valid = torch.arange(documents.shape[2])[None, :] < lengths[:, None]
        starts = _starts(lengths.tolist())
        costs = np.empty((len(self.frames), len(self.starts) - 1, len(lengths)), dtype=np.float32)

        def search(job: tuple[int, slice]) -> None:
            layer, group = job
            part = slice(int(starts[group.start]), int(starts[group.stop]))
            self._search(layer, frames[layer][part], starts[group.start : group.stop + 1], costs[layer, :, group])

        # Layer by layer, so that scaling to length 1 needs one copy of a layer, not of all.
        frames = [directions(layer[valid].float(), self.distance).numpy() for layer in documents]
        jobs = itertools.product(range(len(frames)), _groups(starts, COLUMNS))
        cores = torch.get_num_threads()
        # The threads below are the parallelism: each job's matrix product stays on its own core.
        with _libraries().limit(limits=1, user_api="blas"):
            if cores == 1:
                list(map(search, jobs))
            else:
                with ThreadPoolExecutor(cores) as pool:
                    list(pool.map(search, jobs))
        return torch.from_numpy(costs)

    def _search(self, layer: int, frames: np.ndarray, starts: np.ndarray, costs: np.ndarray) -> None:
        """Write the costs `(queries, documents)` of all queries in some neighbouring documents of a layer."""
        squares = self._squares(frames)
        longest = int(np.diff(self.starts).max())
        groups = _groups(self.starts, max(1, min(ROWS, ROWS * COLUMNS // len(frames))))
        space = np.empty((ROWS + longest, len(frames)), dtype=np.float32)
        for group in groups:
            part = slice(int(self.starts[group.start]), int(self.starts[group.stop]))
            queries, products = self.frames[layer, part], space[: part.stop - part.start]
            if self.kind == CITYBLOCK:
                cityblock(queries, frames, products)
            else:
                np.matmul(queries, frames.T, out=products)
            block_costs(
                products,
                queries,
                self.starts[group.start : group.stop + 1] - part.start,
                self.squares[layer, part],
                frames,
                starts - starts[0],
                squares,
                self.kind,
                costs[group],
            )
