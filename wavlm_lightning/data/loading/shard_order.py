"""Which stretches of which shards an epoch takes, and in which windows they are mixed.

Shards come in a random order and utterances are mixed within a window of some shards. So those of a store far away, or
on a slow disk, are read close together, and an epoch of 25 million utterances is planned window by window. A corpus
that fits into one window is mixed as a whole.
"""

from __future__ import annotations

import numpy as np

WINDOW = 2048
"""Shards that are mixed at a time: a thousand hours, or 60 GB, at half an hour of FLAC each."""


class Passes:
    """Every shard once an epoch.

    Args:
        starts: number of the first utterance of each shard, and the total, int64 `(shards + 1,)`.
        window: shards that are mixed at a time.
        seed: of the whole run.
    """

    repeats = False
    """Whether an utterance may come more than once in an epoch."""

    def __init__(self, starts: np.ndarray, window: int = WINDOW, seed: int = 0) -> None:
        self.starts, self.window, self.seed = np.asarray(starts, dtype=np.int64), window, seed

    def stretches(self, epoch: int) -> np.ndarray:
        """(first, one past the last) utterance of each stretch, none longer than a shard, int64 `(stretches, 2)`."""
        pairs = np.stack([self.starts[:-1], self.starts[1:]], axis=1)
        return pairs[pairs[:, 0] < pairs[:, 1]]

    def windows(self, epoch: int) -> list[np.ndarray]:
        """The stretches of each window, int64 `(stretches, 2)`; windows are about equally large."""
        stretches = self.stretches(epoch)
        if len(stretches) <= self.window:
            return [stretches]
        order = np.random.default_rng([self.seed, epoch]).permutation(len(stretches))
        return np.array_split(stretches[order], -(-len(stretches) // self.window))


def utterances_of(stretches: np.ndarray) -> np.ndarray:
    """The utterances of stretches, in their order, int64 `(utterances,)`."""
    return np.concatenate([np.arange(first, end) for first, end in stretches])


def starts_among(starts: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Where shards begin when only some utterances are left.

    Args:
        starts: number of the first utterance of each shard, and the total, `(shards + 1,)`.
        numbers: the utterances that are left, ascending.

    Returns:
        The same, counted among those, int64 `(shards + 1,)`.
    """
    return np.searchsorted(numbers, starts).astype(np.int64)
