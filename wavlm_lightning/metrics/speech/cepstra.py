"""Mel-cepstral distortion of two recordings of one sentence, aligned by dynamic time warping."""

from __future__ import annotations

import functools
import math

import numpy as np

RATE = 16_000
HOP = 80  # samples between frames, 5 ms
WINDOW = 512  # samples of the Hann window
TRANSFORM = 1024
BANDS = 40
ORDER = 24  # of the cepstrum, without c0
QUIET_DB = 20.0  # frames so far below the mean power are not compared
FLOOR_DB = 80.0  # smallest band, below the loudest of the recording
LONGEST = 60.0  # seconds: the alignment takes the square of it
DECIBELS = 10 / math.log(10)


@functools.cache
def _filters() -> np.ndarray:
    """Mel filters `(bins, BANDS)`, 0 to 8 kHz."""
    from torchaudio.functional import melscale_fbanks

    return melscale_fbanks(TRANSFORM // 2 + 1, 0.0, RATE / 2, BANDS, RATE, norm=None, mel_scale="htk").double().numpy()


@functools.cache
def _cosines() -> np.ndarray:
    """The transform `(BANDS, 1 + ORDER)` from log amplitudes to coefficients."""
    places = (np.arange(BANDS) + 0.5) / BANDS
    cosines = 2 / BANDS * np.cos(np.pi * np.outer(places, np.arange(ORDER + 1)))
    cosines[:, 0] /= 2
    return cosines


def windows(waveform: np.ndarray, length: int) -> np.ndarray:
    """Stretches `(frames, length)` centred at every `HOP`-th sample of `(samples,)`; beyond the ends it is zero."""
    padded = np.pad(np.asarray(waveform, np.float64), (length // 2, length - length // 2))
    return np.lib.stride_tricks.sliding_window_view(padded, length)[: len(waveform) : HOP]


def _powers(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Power in the bands `(frames, BANDS)`, and of the whole frames `(frames,)`."""
    heard = windows(waveform, WINDOW) * np.hanning(WINDOW + 1)[:-1]
    power = np.abs(np.fft.rfft(heard, TRANSFORM)) ** 2
    return power @ _filters(), power.sum(1)


def _floor(loudest: float) -> float:
    """The smallest power of a band in a recording with this loudest one."""
    return loudest * 10 ** (-FLOOR_DB / 10)


def mel_cepstra(waveform: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Cepstrum of 40 mel bands every 5 ms, and which frames are speech.

    log a = c0 + sum over m of c_m cos(pi m x), a the amplitude of a band and x its place from 0 to 1: coefficients are scaled as
    those of SPTK's mel-generalised cepstrum. A gain adds its logarithm to c0 and changes no other coefficient.

    Args:
        waveform: `(samples,)` at 16 kHz.

    Returns:
        Coefficients c0 to c24, float64 `(frames, 25)`, and bool `(frames,)`: at most 20 dB below the mean power.
    """
    bands, total = _powers(waveform)
    loudest = bands.max(initial=0.0)
    if not loudest > 0:
        return np.zeros((len(bands), ORDER + 1)), np.zeros(len(bands), bool)
    logarithms = 0.5 * np.log(np.maximum(bands, _floor(loudest)))
    return logarithms @ _cosines(), total > total.mean() * 10 ** (-QUIET_DB / 10)


def warping_path(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """The cheapest monotonous path through the Euclidean distances of `(n, dim)` and `(m, dim)`.

    Exact; steps to the next frame of either or of both, which weigh the same. Of equal paths it takes both before the first
    alone.

    Returns:
        Pairs of frames from the first to the last, int64 `(steps, 2)`.
    """
    rows, columns = len(one), len(other)
    squares = np.square(one).sum(1)[:, None] + np.square(other).sum(1)[None] - 2 * one @ other.T
    distances = np.sqrt(np.maximum(squares, 0.0))
    # Cell (i, j) of the sums lies at [i + j, i]: a whole diagonal depends on the two before it alone.
    sums = np.full((rows + columns - 1, rows), np.inf)
    sums[0, 0] = distances[0, 0]
    for diagonal in range(1, rows + columns - 1):
        first, last = max(0, diagonal - columns + 1), min(rows - 1, diagonal)
        here = np.arange(first, last + 1)
        before = sums[diagonal - 1, first : last + 1].copy()  # of `other` alone
        above = here > 0
        before[above] = np.minimum(before[above], sums[diagonal - 1, here[above] - 1])
        if diagonal > 1:
            before[above] = np.minimum(before[above], sums[diagonal - 2, here[above] - 1])
        sums[diagonal, first : last + 1] = before + distances[here, diagonal - here]
    path = [(rows - 1, columns - 1)]
    while path[-1] != (0, 0):
        i, j = path[-1]
        steps = [(i - 1, j - 1), (i - 1, j), (i, j - 1)]
        path.append(min((s for s in steps if min(s) >= 0), key=lambda step: sums[step[0] + step[1], step[0]]))
    return np.array(path[::-1])


def aligned(converted: np.ndarray, target: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Coefficients of two recordings, `mel_cepstra`, and the pairs of their speech frames that say the same.

    The alignment hears c1 to c24, so that a gain of either changes nothing. A conversion without sound has the flat spectrum of
    the target's floor throughout, and every frame of the target's speech is compared with it: left out, it would lower a mean.

    Returns:
        `(frames, 25)` of each and the numbers of the frames `(steps, 2)`; None where the target has no speech.

    Raises:
        ValueError: a recording has more than 60 s.
    """
    if max(len(converted), len(target)) > LONGEST * RATE:
        raise ValueError(f"a recording of more than {LONGEST:g} s is not aligned; compare single sentences")
    (one, heard), (other, wanted) = mel_cepstra(converted), mel_cepstra(target)
    if not wanted.any() or not len(one):
        return None
    if not heard.any():
        spoken = np.flatnonzero(wanted)
        one[:, 0] = 0.5 * np.log(_floor(_powers(target)[0].max()))
        if not np.isfinite(converted).all():  # no silence: its distortion must not be a number
            one[:] = np.nan
        return one, other, np.stack([np.minimum(spoken, len(one) - 1), spoken], 1)
    path = warping_path(one[heard, 1:], other[wanted, 1:])
    return one, other, np.stack([np.flatnonzero(heard)[path[:, 0]], np.flatnonzero(wanted)[path[:, 1]]], 1)


def distortion(pairs: tuple[np.ndarray, np.ndarray, np.ndarray], level: bool = False) -> float:
    """Mel-cepstral distortion in dB, (10 / ln 10) sqrt(2 sum of squared differences of c1 to c24), mean over the path.

    Kubichek's measure (1993) on the cepstrum of `mel_cepstra`; figures of other definitions (WORLD, other orders, other
    alignments) do not compare. With `level` c0 counts as well, as in SUPERB-SG: a pure gain of 6.02 dB then costs 4.26 dB, and
    nothing without.
    """
    one, other, path = pairs
    first = 0 if level else 1
    difference = one[path[:, 0], first:] - other[path[:, 1], first:]
    return float(DECIBELS * np.sqrt(2 * np.square(difference).sum(1)).mean())
