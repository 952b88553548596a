"""Noise and rooms from corpora: random stretches of a split, for pre-training and for the waveform transforms of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wavlm_lightning.augment.transforms import WaveformTransform, with_parts
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.split import Split
from wavlm_lightning.data.subset import open_splits


@dataclass(frozen=True)
class CorpusNoise:
    """Reads random stretches of the utterances of a split; a `NoiseReader` for transforms."""

    split: Split

    def __call__(self, rng: np.random.Generator, samples: int | None = None) -> np.ndarray:
        """A stretch of a random utterance, float32 `(at most samples,)`, or a whole one if `samples` is None."""
        number = int(rng.integers(len(self.split)))
        if samples is not None:
            return self.stretch(number, samples, rng)
        shard, place = self.split.locate(number)
        return shard.waveform(place)

    def stretch(self, number: int, samples: int, rng: np.random.Generator) -> np.ndarray:
        """A stretch of utterance `number` from a random place, float32 `(samples,)`; a shorter utterance is whole."""
        shard, place = self.split.locate(number)
        start = int(rng.integers(max(1, shard.samples[place] - samples)))
        return shard.waveform(place, start, samples)


def open_transforms(transforms: Sequence[WaveformTransform]) -> list[Any]:
    """Open the corpora that transforms read from; returns what a resumed run must have in common, for JSON.

    That is the description of every transform, and the hash of every corpus in order of use.

    Raises:
        UserError: a corpus or its split is missing.
    """
    hashes = []
    for transform in with_parts(transforms):
        if (source := transform.reads()) is not None:
            corpus = Corpus.open(source[0])
            transform.open(CorpusNoise(open_splits(corpus, source[1])))
            hashes.append(corpus.sha256)
    return [*(transform.describe() for transform in transforms), *hashes]
