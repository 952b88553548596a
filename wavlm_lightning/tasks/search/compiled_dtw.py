"""Subsequence dynamic time warping on the CPU: matrix products and compiled loops, on all cores.

It gives what `subsequence_dtw.subsequence_costs` gives, which a GPU keeps to.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from threadpoolctl import ThreadpoolController
from torch import Tensor

from wavlm_lightning.tasks.search.subsequence_dtw import Distance, directions

ROWS, COLUMNS = 1024, 512
"""Query and document frames of a matrix product, about: enough for its full speed, few enough for the caches."""


@functools.cache
def _libraries() -> ThreadpoolController:
    """The linear algebra libraries in this process; looking for them takes milliseconds."""
    return ThreadpoolController()


def _groups(starts: np.ndarray, size: int) -> list[slice]:
    """Stretches of neighbours that have at least `size` frames together, as slices of `starts[:-1]`."""
    groups, begin = [], 0
    for end in range(1, len(starts)):
        if starts[end] - starts[begin] >= size or end == len(starts) - 1:
            groups.append(slice(begin, end))
            begin = end
    return groups


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


class CompiledQueries:
    """Queries that are looked for in any documents.

    Args:
        queries: each `(frames, layers, dim)`, on the CPU.
        distance: see `wavlm_lightning.tasks.search.subsequence_dtw`.

    Example:
        >>> queries = CompiledQueries([torch.randn(30, 13, 768), torch.randn(45, 13, 768)], "cosine_exp")
        >>> queries.costs(torch.randn(13, 5, 300, 768), torch.full((5,), 300)).shape
        torch.Size([13, 2, 5])
    """

    def __init__(self, queries: Sequence[Tensor], distance: Distance) -> None:
        from wavlm_lightning.tasks.search import dtw_kernels

        self.kernels = dtw_kernels
        self.distance: Distance = distance
        self.kind = getattr(dtw_kernels, distance.upper())
        frames = directions(torch.cat(list(queries)).float(), distance)
        self.frames = frames.transpose(0, 1).contiguous().numpy()
        self.starts = _starts([len(query) for query in queries])
        self.squares = self._squares(self.frames)

    @staticmethod
    def _squares(frames: np.ndarray) -> np.ndarray:
        return np.einsum("...d,...d->...", frames, frames)

    def costs(self, documents: Tensor, lengths: Tensor) -> Tensor:
        """As `wavlm_lightning.tasks.search.subsequence_dtw.subsequence_costs`.

        A document's frames are brought to length 1 once, for all queries. One matrix product holds about a thousand
        query frames and 512 document frames, so the memory it takes beside the features depends on the longest
        document and query alone.

        Args:
            documents: `(layers, documents, frames, dim)`.
            lengths: valid frames of each document, int64 `(documents,)`, at least 1.

        Returns:
            float32 `(layers, queries, documents)`.
        """
        valid = torch.arange(documents.shape[2])[None, :] < lengths[:, None]
        starts = _starts(lengths.tolist())
        costs = np.empty((len(self.frames), len(self.starts) - 1, len(lengths)), dtype=np.float32)

        def search(job: tuple[int, slice]) -> None:
            layer, group = job
            part = slice(int(starts[group.start]), int(starts[group.stop]))
            self._search(layer, frames[layer][part], starts[group.start : group.stop + 1], costs[layer, :, group])

        # One layer after another is brought to length 1, in one go with its copy.
        frames = [directions(layer[valid].float(), self.distance).numpy() for layer in documents]
        jobs = itertools.product(range(len(frames)), _groups(starts, COLUMNS))
        cores = torch.get_num_threads()
        with _libraries().limit(limits=1, user_api="blas"):
            if cores == 1:
                for job in jobs:
                    search(job)
            else:
                with ThreadPoolExecutor(cores) as pool:
                    list(pool.map(search, jobs))
        return torch.from_numpy(costs)

    def _search(self, layer: int, frames: np.ndarray, starts: np.ndarray, costs: np.ndarray) -> None:
        """All queries in neighbouring documents `(document frames, dim)` of a layer, into `(queries, documents)`."""
        squares = self._squares(frames)
        longest = int(np.diff(self.starts).max())
        groups = _groups(self.starts, max(1, min(ROWS, ROWS * COLUMNS // len(frames))))
        space = np.empty((ROWS + longest, len(frames)), dtype=np.float32)
        for group in groups:
            part = slice(int(self.starts[group.start]), int(self.starts[group.stop]))
            queries, products = self.frames[layer, part], space[: part.stop - part.start]
            if self.kind == self.kernels.CITYBLOCK:
                self.kernels.cityblock(queries, frames, products)
            else:
                np.matmul(queries, frames.T, out=products)
            self.kernels.block_costs(
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
