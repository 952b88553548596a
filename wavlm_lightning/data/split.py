"""A split of a corpus: its utterances, numbered across its shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.lengths import Lengths
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class Split:
    """All utterances of one split, in shard order."""

    name: str
    shards: list[ShardIndex]
    lengths: tuple[Lengths, ...] = ()  # files that spare reading the indices; old corpora have none

    @cached_property
    def samples(self) -> np.ndarray:
        """Length of each utterance in samples, int64 `(utterances,)`."""
        if len(self.lengths) == 1:
            return self.lengths[0].read()  # 200 MB of 94,000 hours, not copied
        if self.lengths:
            return np.concatenate([file.read() for file in self.lengths])
        return np.concatenate([np.asarray(shard.samples, dtype=np.int64) for shard in self.shards])

    @cached_property
    def keys(self) -> list[str]:
        return [key for shard in self.shards for key in shard.keys]

    @cached_property
    def starts(self) -> np.ndarray:
        """Number of the first utterance of each shard, and the total, int64 `(shards + 1,)`."""
        return np.concatenate([[0], np.cumsum([shard.utterances for shard in self.shards])])

    def locate(self, number: int) -> tuple[ShardIndex, int]:
        """The shard that holds utterance `number` and its place there.

        Raises:
            UserError: the file of lengths contradicts the index of that shard (compared once a process).
        """
        shard = int(np.searchsorted(self.starts, number, side="right")) - 1
        if self.lengths and not self._agrees[shard]:
            self._compare(shard)
        return self.shards[shard], number - int(self.starts[shard])

    @cached_property
    def _agrees(self) -> np.ndarray:
        """Of each shard, whether its index has been compared with the file of lengths: bool `(shards,)`."""
        return np.zeros(len(self.shards), dtype=bool)

    def _compare(self, shard: int) -> None:
        begin, end = self.starts[shard : shard + 2].tolist()
        wrong = np.flatnonzero(self._listed[begin:end] != self.shards[shard].samples)
        if wrong.size:
            place = int(wrong[0])
            raise UserError(
                f"{self.lengths[0].path}: says {self._listed[begin + place]:,} samples for utterance "
                f"{self.shards[shard].keys[place]!r}, the index of {self.shards[shard].path.name} says "
                f"{self.shards[shard].samples[place]:,}; prepare the corpus again"
            )
        self._agrees[shard] = True

    @property
    def _listed(self) -> np.ndarray:
        """Lengths of all utterances of the shards, in samples."""
        return self.samples

    def __len__(self) -> int:
        return int(self.starts[-1])

    @property
    def seconds(self) -> float:
        return float(self.samples.sum()) / SAMPLE_RATE

    def version(self, changed: Sequence[Any] = ()) -> str:
        """A hash that changes if an utterance of the shards does; `changed` is what transforms make of them, JSON-like."""
        facts = [[shard.version for shard in self.shards], *changed]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    def utterances(self) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        """All (key, waveform float32 `(samples,)`, metadata), in order."""
        for shard in self.shards:
            for place, key in enumerate(shard.keys):
                yield key, shard.waveform(place), shard.meta(place)

    def metas(self) -> list[dict[str, Any]]:
        """The metadata of all utterances, without decoding audio."""
        return [shard.meta(place) for shard in self.shards for place in range(shard.utterances)]

    @property
    def audio_members(self) -> tuple[str, ...]:
        """Names of further audio that utterances may have, from `corpus.json`."""
        return tuple(sorted({name for shard in self.shards for name in shard.audio_members}))

    def check_audio(self, member: str, aligned: bool = False) -> None:
        """Raise `UserError` if an utterance lacks further audio, or with `aligned` if its length is not the utterance's.

        Reads the indices, no audio. The corpus keeps every length as it is: what needs equal lengths, such as a clean
        reference that is cropped with the noisy audio, asks for them here before it reads.
        """
        if member not in self.audio_members:
            have = ", ".join(self.audio_members) or "none"
            raise UserError(
                f"split {self.name}: its utterances have no audio {member!r} (further audio: {have}); write it with the "
                "corpus, see `wavlm prepare folder --help`"
            )
        for number in range(len(self)):
            shard, place = self.locate(number)
            samples, own = shard.member_samples(place, member), shard.samples[place]
            if aligned and samples != own:
                raise UserError(
                    f"split {self.name}: {member!r} of utterance {shard.keys[place]!r} has {samples:,} samples, the "
                    f"utterance {own:,}; a target must be as long as its utterance, so cut both alike and prepare again"
                )

    def check_keys(self) -> None:
        """Raise `UserError` if a key occurs twice."""
        # A set of 25 million strings would take gigabytes, so only keys whose hashes collide are compared.
        hashes = np.fromiter((hash(key) for shard in self.shards for key in shard.keys), np.int64, len(self))
        order = np.sort(hashes)
        twice = set(order[1:][order[1:] == order[:-1]].tolist())
        seen: set[str] = set()
        for number in np.flatnonzero(np.isin(hashes, list(twice))) if twice else ():
            shard, place = self.locate(int(number))
            key = shard.keys[place]
            if key in seen:
                raise UserError(f"split {self.name}: the key {key!r} occurs twice; keys must be unique in a split")
            seen.add(key)
