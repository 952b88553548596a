"""Noise of test splits, of a kind that no training split has: a motor whose pitch moves slowly."""

import numpy as np

from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE


def unseen_noise(samples: int, rng: np.random.Generator) -> np.ndarray:
    """Fifteen partials of a fundamental of 60 to 180 Hz that moves by 5 %, float32 `(samples,)`, of no given level."""
    times = np.arange(samples) / SAMPLE_RATE
    hertz = rng.uniform(60.0, 180.0) * (1 + 0.05 * np.sin(2 * np.pi * rng.uniform(0.2, 1.0) * times))
    phase = 2 * np.pi * np.cumsum(hertz) / SAMPLE_RATE
    partials = range(1, 16)
    tones = sum(np.sin(number * phase + rng.uniform(0, 2 * np.pi)) / number for number in partials)
    return np.asarray(tones, dtype=np.float32)
