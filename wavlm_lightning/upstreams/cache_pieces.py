"""Which utterances of a shard share a file of a feature cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE

PIECE_SECONDS = 600.0
"""Audio whose features make one file, about: what a killed run loses at most."""


class AudioShard(Protocol):
    """Where utterances come from: a shard of a corpus."""

    @property
    def path(self) -> Path:
        """The file; its stem names it."""
        ...

    @property
    def sha256(self) -> str:
        """Hash of the audio; another hash means other features."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """Its utterances."""
        ...

    @property
    def samples(self) -> Sequence[int]:
        """Their lengths."""
        ...

    def waveform(self, place: int) -> np.ndarray:
        """One of them, float32 `(samples,)`."""
        ...


class Pieces:
    """Utterances by ascending length, cut where another ten minutes of audio are full.

    The division depends on the lengths alone, so that a later run finds the files of an earlier one.

    Args:
        samples: length of each utterance of the shard.

    Attributes:
        samples: the same, int64 `(utterances,)`.
        places: of the utterances of each piece, int64 `(utterances in it,)`.
    """

    def __init__(self, samples: Sequence[int]) -> None:
        self.samples = np.asarray(samples, dtype=np.int64)
        order = np.argsort(self.samples, kind="stable")
        before = np.cumsum(self.samples[order]) - self.samples[order]
        number = before // round(PIECE_SECONDS * SAMPLE_RATE)
        self.places = np.split(order, np.flatnonzero(np.diff(number)) + 1)
        self._piece_of, self._row_of = np.empty((2, len(self.samples)), dtype=np.int64)
        for piece, places in enumerate(self.places):
            self._piece_of[places], self._row_of[places] = piece, np.arange(len(places))

    def locate(self, place: int) -> tuple[int, int]:
        """The piece that holds an utterance, and its row there."""
        return int(self._piece_of[place]), int(self._row_of[place])

    def up_to(self, longest: int | None) -> list[int]:
        """Numbers of the pieces that hold utterances of up to so many samples; of all pieces without a limit."""
        return [n for n, places in enumerate(self.places) if longest is None or self.samples[places[0]] <= longest]
