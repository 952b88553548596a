"""Subsets of a split, and several splits joined into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.data.split import Split
from wavlm_lightning.system.errors import UserError


def open_splits(corpus: Corpus, names: str) -> Split:
    """One split, or several joined by `+`, as in `fold2+fold3`."""
    return join_splits(names, [corpus.split(name) for name in names.split("+")])


def join_splits(name: str, parts: Sequence[Split]) -> Split:
    """Join whole splits (not a `Subset`), possibly of different corpora, in this order."""
    if len(parts) == 1:
        return parts[0]
    # Files of lengths help only if every part has one.
    lengths = [file for part in parts for file in part.lengths] if all(part.lengths for part in parts) else []
    return Split(name, [shard for part in parts for shard in part.shards], tuple(lengths))


@dataclass(frozen=True)
class Subset(Split):
    """Some utterances of a split: those with `numbers`, int64 `(utterances,)`."""

    numbers: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def of(cls, split: Split, numbers: Sequence[int] | np.ndarray, why: str) -> Subset:
        """Choose utterances of a whole split, which is not a `Subset` itself.

        If none is chosen, `UserError` says that no utterance is left `why`.
        """
        if len(numbers) == 0:
            raise UserError(f"split {split.name}: no utterance is left {why}")
        return cls(split.name, split.shards, split.lengths, np.asarray(numbers, dtype=np.int64))

    @cached_property
    def samples(self) -> np.ndarray:
        return self._listed[self.numbers]

    @cached_property
    def _listed(self) -> np.ndarray:
        return Split(self.name, self.shards, self.lengths).samples

    @cached_property
    def keys(self) -> list[str]:
        everything = Split(self.name, self.shards).keys
        return [everything[number] for number in self.numbers]

    def locate(self, number: int) -> tuple[ShardIndex, int]:
        return super().locate(int(self.numbers[number]))

    def __len__(self) -> int:
        return len(self.numbers)

    def utterances(self) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        for number in range(len(self)):
            shard, place = self.locate(number)
            yield shard.keys[place], shard.waveform(place), shard.meta(place)

    def metas(self) -> list[dict[str, Any]]:
        return [shard.meta(place) for shard, place in map(self.locate, range(len(self)))]
