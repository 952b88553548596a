"""From overlapping windows to one time line: how many speak at each frame, and who they are.

As pyannote.audio 3 does it: the number of speakers of a frame is the rounded mean over the windows that hear it, and the
speakers are those whom most of these windows hear.
"""

from __future__ import annotations

import numpy as np


def window_starts(frames: int, window: int, step: int) -> np.ndarray:
    """First frames of windows that cover a recording, int64; the last window ends where the recording does.

    Args:
        frames: of the recording.
        window: frames of a window.
        step: frames from one window to the next.
    """
    if frames <= window:
        return np.zeros(1, dtype=np.int64)
    starts = np.arange(0, frames - window, step)
    return np.append(starts, frames - window)


def speaker_count(activity: np.ndarray, starts: np.ndarray, frames: int) -> np.ndarray:
    """Speakers of each frame, int64 `(frames,)`: the mean over windows, rounded (halves to the even number).

    Args:
        activity: who speaks, bool `(windows, window frames, speakers)`.
        starts: first frame of each window.
        frames: of the recording.
    """
    counts, heard = np.zeros(frames), np.zeros(frames)
    for start, window in zip(starts, activity, strict=True):
        own = slice(start, start + len(window))
        counts[own] += window.sum(1)[: frames - start]
        heard[own] += 1
    return np.rint(counts / np.maximum(heard, 1)).astype(np.int64)


def stitch(activity: np.ndarray, clusters: np.ndarray, starts: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Who speaks at each frame of the recording, bool `(frames, clusters)`.

    Args:
        activity: who speaks in each window, bool `(windows, window frames, speakers)`.
        clusters: of each local speaker, int `(windows, speakers)`; those of -1 are left out.
        starts: first frame of each window.
        count: speakers of each frame, `(frames,)`; nobody is added where fewer clusters are heard.
    """
    frames, number = len(count), int(clusters.max(initial=-1)) + 1
    heard = np.zeros((frames, number), dtype=np.int32)
    for start, window, places in zip(starts, activity, clusters, strict=True):
        known = np.flatnonzero(places >= 0)
        heard[start : start + len(window), places[known]] += window[: frames - start, known]
    # Among equals the first cluster comes first.
    order = np.argsort(-heard, axis=1, kind="stable")
    rank = np.empty_like(order)
    np.put_along_axis(rank, order, np.arange(number)[None], 1)
    return (rank < count[:, None]) & (heard > 0)
