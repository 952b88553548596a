"""A phone or word with its times, checks of a sequence of them, and the class of each frame."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from wavlm_lightning.system.errors import UserError

SILENCE = "SIL"  # the name of pauses in every alignment set, and of what lies between, before and behind its segments
SPOKEN_NOISE = "SPN"  # the name of noise and of words without pronunciation
WINDOW_CENTRE = 0.0125  # seconds: the middle of the first window of 25 ms, of encoder frames and of Kaldi's alike
DIGITS = 6  # of times in files: microseconds, which hide what adding decimal fractions leaves
PAST_THE_END = 0.1  # seconds by which a segment may end behind its audio: aligners round to frames


class Segment(NamedTuple):
    """A phone or a word, from `start` to `end` in seconds."""

    name: str
    start: float
    end: float


def check_segments(rows: Sequence[Segment], seconds: float = math.inf) -> None:
    """Check that segments follow each other inside audio of `seconds`.

    Raises:
        ValueError: a name is empty or no text, a time is no finite number or below zero, a segment ends before it begins or lies
            over the one before it, or the last one ends more than 0.1 s behind the audio.
    """
    last = 0.0
    for place, (name, start, end) in enumerate(rows):
        if not isinstance(name, str) or not name:
            raise ValueError(f"segment {place} has the name {name!r}")
        if not all(type(time) in (int, float) and math.isfinite(time) for time in (start, end)):
            raise ValueError(f"{name!r} lies from {start!r} to {end!r}, which are not times in seconds")
        if not 0 <= start < end:
            raise ValueError(f"{name!r} lies from {start:g} to {end:g} s, which is no stretch of time")
        if start < last:
            raise ValueError(f"{name!r} begins at {start:g} s, before the segment in front of it ends ({last:g} s)")
        last = end
    if last > seconds + PAST_THE_END:
        raise ValueError(f"{rows[-1][0]!r} ends at {last:g} s, and the audio at {seconds:g} s")


def frame_times(frames: int, rate: float) -> np.ndarray:
    """The middle of the window of each frame in seconds, float64 `(frames,)`: frame t lies at .0125 + t / rate.

    So does frame t of an encoder (25 ms windows every 20 ms) and frame t of Kaldi's features (every 10 ms): frame t at 50 Hz is
    frame 2t at 100 Hz.
    """
    return WINDOW_CENTRE + np.arange(frames) / rate


def frame_classes(
    segments: Sequence[Segment], frames: int, rate: float, classes: Mapping[str, int], silence: str = SILENCE
) -> np.ndarray:
    """The class of the segment in the middle of each frame's window; `silence` where there is none.

    Args:
        segments: in order of time.
        frames: how many frames.
        rate: frames per second.
        classes: number of each name.
        silence: name of the class of gaps.

    Returns:
        int64 `(frames,)`.

    Raises:
        UserError: `classes` lacks a name.

    Example:
        >>> frame_classes([Segment("AH", 0.0, 0.03), Segment("T", 0.03, 0.05)], 3, 50, {"SIL": 0, "AH": 1, "T": 2}, "SIL")
        array([1, 2, 0])
    """
    try:
        ids = np.array([classes[name] for name, _, _ in segments], dtype=np.int64)
        gap = classes[silence]
    except KeyError as error:
        known = ", ".join(list(classes)[:8])
        raise UserError(
            f"alignments: no class {error.args[0]!r}; the classes are {known}, ... ({len(classes)}), so make the codebook from "
            "alignments that hold this name, or rename it with --map"
        ) from error
    found = np.full(frames, gap, dtype=np.int64)
    if not len(ids):
        return found
    times = frame_times(frames, rate)
    place = np.searchsorted(np.array([start for _, start, _ in segments]), times, side="right") - 1
    inside = (place >= 0) & (times < np.array([end for _, _, end in segments])[place])
    found[inside] = ids[place[inside]]
    return found
