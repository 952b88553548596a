"""Noise at a drawn signal-to-noise ratio: recorded noise of a corpus, babble of other utterances, or coloured noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import fft

from wavlm_lightning.augment.transforms.base import Draw, FromCorpus
from wavlm_lightning.augment.transforms.levels import at_ratio, fitted
from wavlm_lightning.encoder.config import SAMPLE_RATE
from wavlm_lightning.system.errors import UserError


@dataclass(kw_only=True)
class AddNoise(FromCorpus):
    """Adds noise at a random signal-to-noise ratio.

    The ratio is that of the powers over the whole utterance, pauses included, as in `torchaudio.functional.add_noise`,
    and it is met exactly. Samples of the sum may exceed 1. A silent utterance stays silent.

    Args:
        probability: share of the utterances that are changed.
        snr_db: range of the ratio in dB, uniform.
        corpus: a corpus of noise (`wavlm prepare noise`): a stretch from a random place of a random recording, repeated
            if it is shorter than the utterance. Null for generated noise or babble.
        corpus_split: the split of that corpus.
        talkers: range of the number of other utterances, at equal power, that make babble; null for no babble. Kaldi's
            x-vector recipe takes 3 to 7.
        colour: range of the exponent c of generated noise, whose power falls as 1 / f^c above 50 Hz: 0 white, 1 pink, 2
            brown.
    """

    snr_db: tuple[float, float] = (5.0, 20.0)
    talkers: tuple[int, int] | None = None
    colour: tuple[float, float] = (0.0, 2.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("snr_db")
        self._check_range("colour", -4, 4)
        if self.talkers is not None:
            self._check_range("talkers", 1)
        if self.corpus is not None and self.talkers is not None:
            raise UserError("AddNoise: corpus and talkers both name a noise; list two transforms, or OneOf them")
        if (self.corpus, self.talkers) != (None, None) and tuple(self.colour) != (0.0, 2.0):
            raise UserError("AddNoise.colour is that of generated noise; leave it out beside corpus or talkers")

    def change(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """The utterance in noise, float32 `(samples,)`."""
        snr_db = draw.rng.uniform(*self.snr_db)
        return waveform + at_ratio(waveform, self._noise(len(waveform), draw), snr_db)

    def _noise(self, samples: int, draw: Draw) -> np.ndarray:
        rng = draw.rng
        if self.corpus is not None:
            return fitted(self._reader()(rng, samples), samples, rng)
        if self.talkers is not None:
            return babble(samples, int(rng.integers(self.talkers[0], self.talkers[1] + 1)), draw)
        return coloured_noise(samples, rng.uniform(*self.colour), rng)


def babble(samples: int, talkers: int, draw: Draw) -> np.ndarray:
    """The sum of stretches of other utterances, all at the same power, float32 `(samples,)`."""
    mixed = np.zeros(samples, np.float32)
    one = np.ones(1, np.float32)
    for _ in range(talkers):
        mixed += at_ratio(one, fitted(draw.another(), samples, draw.rng), 0.0)
    return mixed


def coloured_noise(samples: int, colour: float, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise whose power falls as 1 / f^colour above 50 Hz, float32 `(samples,)`, at no particular level."""
    length = fft.next_fast_len(samples, real=True)  # a prime length would take a hundred times as long
    waveform = fft.irfft(noise_spectrum(length, colour, rng), length)
    return waveform[:samples].astype(np.float32, copy=False)


def noise_spectrum(length: int, colour: float, rng: np.random.Generator) -> np.ndarray:
    """Spectrum, complex64 `(length // 2 + 1,)`, of `length` samples of noise whose power falls as 1 / f ** colour."""
    bins = length // 2 + 1
    parts = rng.standard_normal(2 * bins, dtype=np.float32).view(np.complex64)
    hertz = np.maximum(fft.rfftfreq(length, 1 / SAMPLE_RATE), 50.0).astype(np.float32)
    return parts * (hertz / 50.0) ** np.float32(-colour / 2)
