"""Recording conditions for clean speech: room, noise, frequency response, level; noise of kinds that only test splits have."""

from dataclasses import dataclass

import numpy as np
from scipy import fft

from wavlm_lightning.augment.transforms.noise import noise_spectrum
from wavlm_lightning.data.mini.rooms import TAPS
from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE

_LEVEL_DB = -26.0
_PEAK = 0.95
_KNOTS_HERTZ = np.array([60.0, 180, 400, 900, 1800, 3500, 8000])


@dataclass(frozen=True)
class Conditions:
    """Probability and strength of the distortions of a recording."""

    room: float = 0.5  # probability
    noise: float = 0.3  # probability
    snr: tuple[float, float] = (20.0, 35.0)  # range in dB
    equaliser: float = 0.8  # probability of a random smooth frequency response
    # Largest gain and loss. Without it, a mean log spectrum nearly identifies a synthetic speaker (FBANK gains 13 points
    # on speaker identification).
    equaliser_db: float = 8.0
    gain_db: float = 6.0  # largest deviation from the mean level
    loudness_db: float = 0.0  # added to the level, for intentionally loud or quiet speech
    colour: tuple[float, float] = (0.0, 2.0)  # range of the noise's spectral slope: 0 white, 1 pink, 2 brown


def record(
    waveform: np.ndarray, conditions: Conditions, rooms: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, dict[str, float | bool]]:
    """Apply random recording conditions to clean speech, float32 (samples,) at 16 kHz; alignment and length are kept.

    Room (one of the impulse responses (rooms, taps)), noise and frequency response are combined in the frequency
    domain, which needs a single pair of transforms. Returns float32 (samples,) with peaks below 0.95, and the
    conditions drawn: `room`, `snr_db` (if noise), `level_db`.
    """
    done: dict[str, float | bool] = {}
    length = fft.next_fast_len(len(waveform) + TAPS, real=True)
    spectrum = fft.rfft(waveform, length)
    done["room"] = bool(rng.random() < conditions.room)
    if done["room"]:
        spectrum = spectrum * fft.rfft(rooms[rng.integers(len(rooms))], length)
    if rng.random() < conditions.noise:
        snr = rng.uniform(*conditions.snr)
        noise = noise_spectrum(length, rng.uniform(*conditions.colour), rng)
        # The noise fills all samples of the transform, the speech only len(waveform) of them.
        power = np.vdot(spectrum, spectrum).real * length / len(waveform) / max(np.vdot(noise, noise).real, 1e-20)
        spectrum = spectrum + noise * np.float32(np.sqrt(power) * 10 ** (-snr / 20))
        done["snr_db"] = round(snr, 1)
    if rng.random() < conditions.equaliser:
        spectrum = spectrum * frequency_response(length, conditions.equaliser_db, rng)
    recorded = fft.irfft(spectrum, length)[: len(waveform)].astype(np.float32, copy=False)
    level = _LEVEL_DB + conditions.loudness_db + rng.uniform(-conditions.gain_db, conditions.gain_db)
    recorded, done["level_db"] = set_level(recorded, level)
    return recorded, done


def noise(samples: int, colour: float, level_db: float, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise, float32 (samples,), at `level_db` relative to full scale."""
    waveform = fft.irfft(noise_spectrum(samples, colour, rng), samples).astype(np.float32, copy=False)
    return set_level(waveform, level_db)[0]


def frequency_response(length: int, largest_db: float, rng: np.random.Generator) -> np.ndarray:
    """A smooth random gain for every bin of a real transform of `length` samples, float32."""
    decibels = rng.uniform(-largest_db, largest_db, len(_KNOTS_HERTZ))
    # Interpolate on a coarse grid first, because logarithms of every bin would take most of the time.
    grid = np.linspace(0, SAMPLE_RATE / 2, 257)
    coarse = np.interp(np.log(np.maximum(grid, 1.0)), np.log(_KNOTS_HERTZ), decibels)
    gains = 10 ** (coarse / 20)
    return np.interp(np.linspace(0, SAMPLE_RATE / 2, length // 2 + 1), grid, gains).astype(np.float32)


def set_level(waveform: np.ndarray, level_db: float) -> tuple[np.ndarray, float]:
    """The waveform at a root-mean-square level in dB of full scale, or as near as peaks of 0.95 allow, and that level."""
    rms = float(np.sqrt(np.mean(waveform.astype(np.float64) ** 2)))
    if not rms > 0:
        raise ValueError("a silent waveform has no level")
    gain = 10 ** (level_db / 20) / rms
    gain = min(gain, _PEAK / float(np.abs(waveform).max()))
    return (waveform * np.float32(gain)), round(20 * float(np.log10(gain * rms)), 1)


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
