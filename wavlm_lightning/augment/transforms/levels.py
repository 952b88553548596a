"""Levels: the power of a waveform, adding one at a ratio in dB, and a random gain with what happens beyond full scale."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from wavlm_lightning.augment.transforms.base import Draw, WaveformTransform


def power(waveform: np.ndarray) -> float:
    """Mean square of the samples, over all of them, pauses included."""
    return float(np.square(waveform, dtype=np.float64).mean())


def at_ratio(waveform: np.ndarray, other: np.ndarray, ratio_db: float) -> np.ndarray:
    """`other`, scaled so that the power of `waveform` is `ratio_db` above its power: float32, as long as `other`.

    The formula of `torchaudio.functional.add_noise`, which needs equal lengths. Silence stays silence on both sides.
    """
    theirs = power(other)
    scale = math.sqrt(power(waveform) / theirs) * 10 ** (-ratio_db / 20) if theirs else 0.0
    return other * np.float32(scale)


def fitted(waveform: np.ndarray, samples: int, rng: np.random.Generator) -> np.ndarray:
    """A stretch from a random place, float32 `(samples,)`; a shorter waveform is repeated."""
    if len(waveform) >= samples:
        start = int(rng.integers(len(waveform) - samples + 1))
        return waveform[start : start + samples]
    start = int(rng.integers(len(waveform)))
    return np.take(waveform, np.arange(start, start + samples), mode="wrap")


@dataclass(kw_only=True)
class ChangeGain(WaveformTransform):
    """Another level, uniform in dB.

    Args:
        probability: share of the utterances that are changed.
        gain_db: range of the gain in dB; `[0, 0]` with `beyond` limits what earlier transforms made too loud.
        beyond: what happens to samples beyond [-1, 1]: `keep` them, for an encoder that takes any float; `clip` them as a
            recorder does; `scale` the whole waveform to a peak of 1, which distorts nothing.
    """

    gain_db: tuple[float, float] = (-6.0, 6.0)
    beyond: Literal["keep", "clip", "scale"] = "keep"

    def __post_init__(self) -> None:
        super().__post_init__()
        self._check_range("gain_db")

    def change(self, waveform: np.ndarray, draw: Draw) -> np.ndarray:
        """The louder or softer waveform, float32 `(samples,)`."""
        changed = waveform * np.float32(10 ** (draw.rng.uniform(*self.gain_db) / 20))
        if self.beyond == "clip":
            return np.clip(changed, -1.0, 1.0)
        if self.beyond == "scale" and (peak := float(np.abs(changed).max())) > 1:
            return changed / np.float32(peak)
        return changed
