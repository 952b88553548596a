"""Other talkers: segments of further utterances that overlap an utterance, at a drawn ratio."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from wavlm_lightning.augment.transforms.base import Draw, WaveformTransform
from wavlm_lightning.augment.transforms.levels import at_ratio, fitted


@dataclass(kw_only=True)
class MixUtterances(WaveformTransform):
    """Lets segments of other utterances of the split overlap the utterance, whose labels and length stay.

    It is what `UtteranceMixing` (WavLM) does in pre-training, for one waveform and any number of talkers. The ratio is
    that of the powers of both whole utterances, pauses included. Samples of the sum may exceed 1. Labels of the others,
    such as turns or words, are not added, so that tasks whose target lists all who speak (SD) refuse it.

    Args:
        probability: share of the utterances that are changed.
        ratio_db: range of the ratio of the utterance to each other one, in dB.
        others: range of the number of other utterances.
        overlap: range of the length of each segment, as a share of the utterance; a shorter other is taken whole.
    """

    keeps_talkers: ClassVar[bool] = False

    ratio_db: tuple[float, float] = (0.0, 15.0)
    others: tuple[int, int] = (1, 1)
    overlap: tuple[float, float] = (0.1, 0.5)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("ratio_db")
        self._check_range("others", 1)
        self._check_range("overlap", 0, 1)

    def change(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """The utterance with others in it, float32 `(samples,)`."""
        rng, samples = draw.rng, len(waveform)
        mixed = waveform.copy()
        for _ in range(int(rng.integers(self.others[0], self.others[1] + 1))):
            other = at_ratio(waveform, draw.another(), rng.uniform(*self.ratio_db))
            length = min(len(other), round(samples * rng.uniform(*self.overlap)))
            begin = int(rng.integers(samples - length + 1))
            mixed[begin : begin + length] += fitted(other, length, rng)
        return mixed
