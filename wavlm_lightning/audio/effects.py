"""The two SoX effects of SUPERB's protocol, so that no corpus depends on a SoX installation."""

from __future__ import annotations

import numpy as np

from wavlm_lightning.audio.reading import SAMPLE_RATE

WINDOW_SECONDS = 0.02
"""SoX measures loudness as the root mean square of the last 20 ms."""


def gain(waveform: np.ndarray, db: float) -> np.ndarray:
    """Make louder or softer, as `sox IN OUT gain DB` does; what leaves [-1, 1] is clipped.

    Args:
        waveform: `(samples,)` in [-1, 1].
        db: decibels; negative is softer.

    Returns:
        float32 `(samples,)`.

    Example:
        >>> gain(np.full(2, 0.5, "f4"), -6.0206).round(3).tolist()
        [0.25, 0.25]
    """
    return np.clip(waveform * np.float32(10.0 ** (db / 20.0)), -1.0, 1.0).astype(np.float32)


def trim_silence(
    waveform: np.ndarray, sample_rate: int = SAMPLE_RATE, threshold: float = 0.001, min_seconds: float = 0.1
) -> np.ndarray:
    """Remove all quiet stretches, as `sox IN OUT silence 1 0.1 0.1% -1 0.1 0.1%` does (SUPERB's SV).

    A sample is loud if the root mean square of the 20 ms that end with it exceeds the threshold. Nothing is kept until
    `min_seconds` of loud samples have come without a break; from there on everything is, up to the first quiet stretch
    of `min_seconds`. That stretch is dropped, the measure begins anew from nothing, and so on. So shorter pauses stay,
    shorter sounds between long pauses go, a sound keeps up to 20 ms of the pause behind it, and the quietest beginning
    of a sound may be lost.

    Behind another effect (as SUPERB has it: `gain -3`), the kept samples are those of SoX 14.4.2, to the sample:
    compared on 1,000 random speech-like signals. As the first effect on a 16-bit file, SoX also rounds the measure
    down to 16 bits and so keeps slightly less (0.06 % in the same comparison); this is not imitated.

    Args:
        waveform: `(samples,)` in [-1, 1].
        sample_rate: in Hz.
        threshold: share of full scale; 0.001 is SoX's `0.1%`.
        min_seconds: of loud samples that begin, and of quiet ones that end, a stretch to keep; at least 0.02.

    Returns:
        What is kept, `(samples,)`, possibly empty.

    Raises:
        ValueError: `min_seconds` is less than the window that loudness is measured in.
    """
    window = int(sample_rate * WINDOW_SECONDS)
    least = round(min_seconds * sample_rate)
    if least < window:
        raise ValueError(f"min_seconds must be at least {WINDOW_SECONDS}, not {min_seconds}")
    # Integers that may wrap around: differences of their running sum are exact, however long the recording is.
    squares = np.round(waveform.astype(np.float64) * 2**27).astype(np.int64) ** 2
    energy = np.concatenate([np.zeros(window, np.int64), np.cumsum(squares)])
    enough = (threshold * 2**27) ** 2 * window
    loud = energy[window:] - energy[: len(waveform)] > enough
    edges = np.flatnonzero(np.diff(loud.astype(np.int8), prepend=0, append=0))
    starts, stops = edges[::2], edges[1::2]
    long_sounds = starts[stops - starts >= least]
    pauses, pause_stops = np.append(0, stops), np.append(starts, len(waveform))
    long_pauses = pauses[pause_stops - pauses >= least]

    kept = []
    begin = 0
    while begin < len(waveform):
        # Nothing before `begin` counts, so the first 20 ms have to gather their energy anew. It only grows there.
        gathered = energy[begin + window : begin + 2 * window] - energy[begin + window - 1]
        start = begin + int(np.searchsorted(gathered, enough, side="right"))
        run = int(np.searchsorted(stops, start, side="right"))
        if run == len(stops) or starts[run] > start or stops[run] - start < least:
            following = long_sounds[long_sounds > start]
            if not len(following):
                break
            start = int(following[0])
        ends = long_pauses[long_pauses >= start + least]
        stop = int(ends[0]) if len(ends) else len(waveform)
        kept.append(waveform[start:stop])
        begin = stop + least
    return np.concatenate(kept) if kept else waveform[:0]
