"""Fundamental frequency of speech by autocorrelation, and how well two contours agree."""

from __future__ import annotations

import functools
from typing import NamedTuple

import numpy as np

from wavlm_lightning.metrics.speech.cepstra import HOP, RATE, windows

LOWEST, HIGHEST = 60.0, 450.0  # Hz
WINDOW = 800  # samples of the Hann window: three periods of the lowest voice
TRANSFORM = 2048
CANDIDATES = 6  # periods that a frame may have
# Of Boersma's search, for frames 10 ms apart.
SILENCE, VOICING, OCTAVE, JUMP, CHANGE = 0.03, 0.45, 0.01, 0.35, 0.14


@functools.cache
def _window() -> tuple[np.ndarray, np.ndarray]:
    """The Hann window and its normalised autocorrelation up to the longest period."""
    window = np.hanning(WINDOW + 1)[:-1]
    return window, _autocorrelation(window[None])[0]


def _autocorrelation(frames: np.ndarray) -> np.ndarray:
    """`(frames, lags)` of `(frames, samples)`, 1 at lag 0; zeros of a silent frame."""
    power = np.abs(np.fft.rfft(frames, TRANSFORM)) ** 2
    found = np.fft.irfft(power)[:, : round(RATE / LOWEST) + 2]
    return found / np.maximum(found[:, :1], 1e-20)


def pitch(waveform: np.ndarray) -> np.ndarray:
    """Fundamental frequency in Hz every 5 ms, 0 where unvoiced, float64 `(frames,)`; 60 to 450 Hz.

    Autocorrelation divided by that of the window, up to six periods a frame, and the cheapest path through them and the
    unvoiced state (Boersma 1993, "Accurate short-term analysis of the fundamental frequency", with its constants). Frames are
    those of `cepstra.mel_cepstra`.

    Args:
        waveform: `(samples,)` at 16 kHz.
    """
    waveform = np.asarray(waveform, np.float64)
    if not waveform.any():
        return np.zeros(len(windows(waveform, WINDOW)))
    window, own = _window()
    frames = windows(waveform, WINDOW)
    frames = frames - frames.mean(1, keepdims=True)
    curve = _autocorrelation(frames * window) / own
    middle = curve[:, 1:-1]
    lags = np.arange(1, curve.shape[1] - 1)
    peaks = (middle > curve[:, :-2]) & (middle >= curve[:, 2:]) & (lags >= RATE / HIGHEST) & (middle > 0.5 * VOICING)
    bend = np.minimum(curve[:, :-2] - 2 * middle + curve[:, 2:], -1e-12)
    slope = 0.5 * (curve[:, 2:] - curve[:, :-2])
    hertz = RATE / (lags - np.clip(slope / bend, -0.5, 0.5))
    # A parabola through a sharp peak may exceed the 1 that no correlation does.
    height = np.minimum(middle - 0.5 * slope**2 / bend, 1.0) - OCTAVE * np.log2(LOWEST / hertz)
    height = np.where(peaks, height, -np.inf)
    best = np.argsort(-height, axis=1)[:, :CANDIDATES]
    height, hertz = np.take_along_axis(height, best, 1), np.take_along_axis(hertz, best, 1)
    loud = np.abs(frames).max(1) / np.abs(waveform).max()
    unvoiced = VOICING + np.maximum(0.0, 2 - loud / (SILENCE / (1 + VOICING)))
    return _cheapest(hertz, height, unvoiced)


def _cheapest(hertz: np.ndarray, strength: np.ndarray, unvoiced: np.ndarray) -> np.ndarray:
    """The frequencies `(frames,)` of the strongest path through candidates `(frames, candidates)` and the unvoiced state."""
    scale = 0.01 * RATE / HOP  # costs are for frames 10 ms apart
    total = np.concatenate([strength, unvoiced[:, None]], 1)
    logarithms = np.log2(hertz)
    came = np.zeros(total.shape, np.int64)
    for frame in range(1, len(total)):
        costs = np.full((total.shape[1], total.shape[1]), CHANGE)
        costs[:-1, :-1] = JUMP * np.abs(logarithms[frame - 1][:, None] - logarithms[frame][None])
        costs[-1, -1] = 0.0
        sums = total[frame - 1][:, None] - scale * costs
        came[frame] = sums.argmax(0)
        total[frame] += sums.max(0)
    state = int(total[-1].argmax())
    found = np.zeros(len(total))
    for frame in range(len(total) - 1, -1, -1):
        found[frame] = 0.0 if state == hertz.shape[1] else hertz[frame, state]
        state = int(came[frame, state])
    return found


class PitchAgreement(NamedTuple):
    """How well the fundamental frequencies of aligned frames agree.

    Attributes:
        correlation: Pearson's r of their logarithms where both are voiced; None with fewer than 10 such frames, or where one
            of them does not move.
        voicing_error: share of the frames of which one alone is voiced.
    """

    correlation: float | None
    voicing_error: float


def pitch_agreement(converted: np.ndarray, target: np.ndarray, path: np.ndarray) -> PitchAgreement:
    """Of two recordings `(samples,)` and the pairs of their frames `(steps, 2)` from `cepstra.aligned`."""
    one, other = pitch(converted)[path[:, 0]], pitch(target)[path[:, 1]]
    both = (one > 0) & (other > 0)
    error = float(((one > 0) != (other > 0)).mean())
    if both.sum() < 10:
        return PitchAgreement(None, error)
    logarithms = np.log(one[both]), np.log(other[both])
    if min(values.std() for values in logarithms) < 1e-4:  # a monotone: 0.01 %, the precision of a parabola
        return PitchAgreement(None, error)
    return PitchAgreement(float(np.corrcoef(*logarithms)[0, 1]), error)
