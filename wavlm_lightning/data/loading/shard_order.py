"""Epoch order: which utterance ranges of which shards are read, and in which shuffle windows.

Shards come in random order, and utterances are shuffled within a window of shards. So a shard on a remote store or a
slow disk is read within a short time, and an epoch of 25 million utterances is planned window by window. A corpus that
fits into one window is shuffled as a whole.
"""

from __future__ import annotations

import numpy as np

WINDOW = 2048  # shards per shuffle window: a thousand hours, or 60 GB, for shards of half an hour of FLAC


class Passes:
    """Epochs that read every shard once.

    `starts` holds the number of the first utterance of each shard, and the total, int64 `(shards + 1,)`; `window` is in
    shards, and `seed` is that of the whole run.
    """

    repeats = False  # whether an utterance may come more than once in an epoch

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
    """Shard starts counted within a subset of the utterances (ascending numbers), int64 `(shards + 1,)`."""
    return np.searchsorted(numbers, starts).astype(np.int64)
