"""Degradations of speech, each with one severity: noise, clipping, codecs, lost packets, rooms, artefacts of processing.

Every function takes a waveform, float32 `(samples,)` at 16 kHz, a severity above 0 and up to 1, and a random generator; it
returns float32 of the same length, in time with the waveform.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import signal

from wavlm_lightning.augment.transforms.noise import coloured_noise
from wavlm_lightning.data.mini.synthesis.speech import SAMPLE_RATE

Degrade = Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
_WINDOW, _HOP = 512, 128  # of the short-time spectra


@dataclass(frozen=True)
class Degradation:
    """A type of degradation, and the quality that it leaves.

    The quality is a convention of this corpus: no human rated anything. It falls with the severity, from `BEST` at 0 to
    `worst` at 1.
    """

    apply: Degrade
    worst: float  # quality at severity 1
    power: float = 1.0  # below 1, the first steps cost most

    def quality(self, severity: float) -> float:
        """Quality on the scale 1 to 5, falling in the severity 0 to 1."""
        return BEST - (BEST - self.worst) * severity**self.power


BEST = 4.6


def _between(mild: float, severe: float, severity: float) -> float:
    """A value between two positive ones, in equal ratios."""
    return mild * (severe / mild) ** severity


def _noise(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Coloured noise, white to brown, at 35 to -3 dB."""
    noise = coloured_noise(len(waveform), rng.uniform(0.0, 2.0), rng)
    return waveform + noise * _rms(waveform) / _rms(noise) * 10 ** (-(35 - 38 * severity) / 20)


def _clipping(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Peaks cut at 3 to 36 dB below the largest."""
    limit = np.abs(waveform).max() * 10 ** (-(3 + 33 * severity) / 20)
    return np.clip(waveform, -limit, limit)


def _low_pass(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A band limit at 6 kHz to 500 Hz."""
    cutoff = _between(6000.0, 500.0, severity)
    return signal.sosfiltfilt(signal.butter(6, cutoff, fs=SAMPLE_RATE, output="sos"), waveform)


def _quantisation(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Logarithmic quantisation (mu-law) with 7 to 1.6 bits, as a waveform codec at a falling bit rate."""
    mu, steps, peak = 255.0, 2.0 ** (7 - 5.4 * severity) / 2, np.abs(waveform).max()
    companded = np.sign(waveform) * np.log1p(mu * np.abs(waveform) / peak) / np.log1p(mu)
    rounded = np.round(companded * steps) / steps
    return np.sign(rounded) * peak * np.expm1(np.abs(rounded) * np.log1p(mu)) / mu


def _packet_loss(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """1 to 50 % of the packets of 20 ms are silent."""
    packet = SAMPLE_RATE // 50
    kept = (rng.random(-(-len(waveform) // packet)) >= _between(0.01, 0.5, severity)).astype(np.float64)
    gains = np.repeat(kept, packet)[: len(waveform)]
    return waveform * signal.lfilter(np.ones(16) / 16, [1.0], gains)  # 1 ms from one to the other


def _reverberation(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """A decaying tail: T60 of 0.2 to 1.8 s, direct to reverberant energy of 15 to -10 dB."""
    t60 = _between(0.2, 1.8, severity)
    times = np.arange(1, round(t60 * SAMPLE_RATE)) / SAMPLE_RATE
    tail = rng.standard_normal(len(times)) * 10 ** (-3 * times / t60)
    tail *= 10 ** (-(15 - 25 * severity) / 20) / np.sqrt(np.sum(tail**2))
    return signal.fftconvolve(waveform, np.concatenate([[1.0], tail]))[: len(waveform)]


def _spectral_gating(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """The weakest 30 to 98 % of time-frequency bins, with some chance, are removed: musical noise of a bad denoiser."""
    spectrum = _spectrum(waveform)
    power = np.abs(spectrum) * np.exp(0.5 * rng.standard_normal(spectrum.shape))
    return _waveform(spectrum * (power > np.quantile(power, 0.3 + 0.68 * severity)), len(waveform))


def _splices(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Grains of 40 ms from a place that is off by up to 1 to 60 ms: the stutter of a bad change of tempo."""
    grain, most = SAMPLE_RATE // 25, round(_between(0.001, 0.06, severity) * SAMPLE_RATE)
    padded = np.pad(waveform, (most + grain, most + 2 * grain))
    summed, window = np.zeros(len(waveform) + 2 * grain), signal.windows.hann(grain, sym=False)
    for start in range(0, len(waveform) + grain, grain // 2):
        place = start + most + int(rng.integers(-most, most + 1))
        summed[start : start + grain] += window * padded[place : place + grain]
    return summed[grain : grain + len(waveform)]


def _crackle(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """2 to 300 clicks a second, up to the loudest peak of the speech."""
    crackled, peak = waveform.astype(np.float64), np.abs(waveform).max()
    count = max(1, round(_between(2.0, 300.0, severity) * len(waveform) / SAMPLE_RATE))
    for place in rng.integers(len(waveform), size=count):
        click = rng.uniform(-peak, peak) * np.exp(-np.arange(12) / 3.0) * np.cos(np.arange(12) * rng.uniform(0.5, 2.5))
        crackled[place : place + 12] += click[: len(waveform) - place]
    return crackled


def _aliasing(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Each sample is held for 1.3 to 20 samples: a lower rate without a filter, whose images fold back."""
    held = _between(1.3, 20.0, severity)
    return waveform[(np.floor(np.arange(len(waveform)) / held) * held).astype(int)]


def _phase_noise(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """Phases of the short-time spectrum are off by up to 0.1 to 1 half turns: the sound of a weak vocoder."""
    spectrum = _spectrum(waveform)
    turned = rng.uniform(-1, 1, spectrum.shape) * np.pi * (0.1 + 0.9 * severity)
    return _waveform(spectrum * np.exp(1j * turned), len(waveform))


def _flutter(waveform: np.ndarray, severity: float, rng: np.random.Generator) -> np.ndarray:
    """The pitch moves by 0.5 to 25 % at about 9 Hz; time is off by less than 5 ms."""
    rate, depth = rng.uniform(8.0, 10.0), _between(0.005, 0.25, severity)
    times = np.arange(len(waveform))
    phase = 2 * np.pi * rate * times / SAMPLE_RATE + rng.uniform(0, 2 * np.pi)
    moved = times + depth / (2 * np.pi * rate) * SAMPLE_RATE * np.sin(phase)
    return np.interp(moved, times, waveform)


KNOWN: dict[str, Degradation] = {
    "noise": Degradation(_noise, 1.2),
    "clipping": Degradation(_clipping, 1.6),
    "low_pass": Degradation(_low_pass, 1.8, 1.3),
    "quantisation": Degradation(_quantisation, 1.3),
    "packet_loss": Degradation(_packet_loss, 1.2, 0.9),
    "reverberation": Degradation(_reverberation, 1.4, 0.9),
    "spectral_gating": Degradation(_spectral_gating, 1.3, 1.3),
    "splices": Degradation(_splices, 1.3),
}
UNSEEN: dict[str, Degradation] = {
    "crackle": Degradation(_crackle, 1.3),
    "aliasing": Degradation(_aliasing, 1.3, 0.9),
    "phase_noise": Degradation(_phase_noise, 1.4),
    "flutter": Degradation(_flutter, 1.6, 1.2),
}


def _rms(waveform: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(waveform, dtype=np.float64))))


def _spectrum(waveform: np.ndarray) -> np.ndarray:
    return signal.stft(waveform, nperseg=_WINDOW, noverlap=_WINDOW - _HOP)[2]


def _waveform(spectrum: np.ndarray, samples: int) -> np.ndarray:
    return signal.istft(spectrum, nperseg=_WINDOW, noverlap=_WINDOW - _HOP)[1][:samples]
