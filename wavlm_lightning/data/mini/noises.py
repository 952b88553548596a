"""Noise of test splits, of kinds that no training split has: a motor whose pitch moves slowly, and the ticking of a relay."""

import numpy as np

from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE


def motor(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Fifteen partials of a fundamental of 60 to 180 Hz that moves by 5 %, float32 `(samples,)`, of no given level."""
    times = np.arange(samples) / SAMPLE_RATE
    hertz = rng.uniform(60.0, 180.0) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.2, 1.0) * times))
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    partials = range(1, 16)
    tones = sum(np.sin(number * phase + rng.uniform(0, 2 * np.pi)) / number for number in partials)
    return np.asarray(tones, dtype=np.float32)


def ticking(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Clicks at irregular times, four to twelve a second, each a decaying resonance, float32 `(samples,)`, of no given level."""
    clicks = np.zeros(samples, dtype=np.float32)
    rate = rng.uniform(4.0, 12.0)
    places = np.flatnonzero(rng.random(samples) < rate / SAMPLE_RATE)
    # One at least, so that a short recording is not silent.
    clicks[places if len(places) else samples // 2] = 1.0
    times = np.arange(round(0.03 * SAMPLE_RATE)) / SAMPLE_RATE
    ring = np.exp(-times / rng.uniform(0.003, 0.008)) * np.sin(2 * np.pi * rng.uniform(1200.0, 4000.0) * times)
    return np.convolve(clicks, ring)[:samples].astype(np.float32)
