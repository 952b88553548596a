"""Boundaries of units or of an alignment against those of phones: precision, recall, F1, R-value, over-segmentation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt

import numpy as np

from wavlm_lightning.metrics.intervals import Interval, bootstrap_interval

TOLERANCE = 0.02  # seconds
END = 0.025  # seconds of audio behind the last segment that are no segment: aligners count whole frames
ROUNDING = 1e-9  # seconds by which two times may be further apart, so that 0.02 s are no more than 0.02 s


@dataclass(frozen=True)
class BoundaryScore:
    """Boundaries found within the tolerance, one-to-one: no boundary of either side counts twice.

    Attributes:
        precision: share of the predicted boundaries that are hits.
        recall: share of the reference boundaries that are hit.
        f1: 2 hits over the boundaries of both sides, with its 95 % bootstrap interval over utterances.
        r_value: 1 - (|r1| + |r2|) / 2 (Räsänen et al., Interspeech 2009), which too many boundaries do not raise; 1 is perfect.
        over_segmentation: predicted boundaries over those of the reference, minus 1: 0 is right.
        reference: number of its boundaries.
        predicted: number of predicted boundaries.
    """

    precision: float
    recall: float
    f1: Interval
    r_value: float
    over_segmentation: float
    reference: int
    predicted: int


def matched(reference: np.ndarray, predicted: np.ndarray, tolerance: float = TOLERANCE) -> int:
    """The largest number of pairs of boundaries no further apart than the tolerance, each boundary in one pair at most.

    Both ascend. Every reference boundary takes the first one that is free and near enough: of points on a line, that is optimal,
    because what a boundary can be paired with is an interval, and both ends of these intervals ascend.

    Example:
        >>> matched(np.array([0.10, 0.13]), np.array([0.12]))
        1
    """
    hits = place = 0
    for time in reference.tolist():
        while place < len(predicted) and predicted[place] < time - tolerance - ROUNDING:
            place += 1
        if place < len(predicted) and predicted[place] <= time + tolerance + ROUNDING:
            hits, place = hits + 1, place + 1
    return hits


def boundary_scores(
    reference: Sequence[np.ndarray], predicted: Sequence[np.ndarray], tolerance: float = TOLERANCE
) -> BoundaryScore:
    """Compare the boundaries of some utterances, pooled over all of them.

    Args:
        reference: of each utterance, ascending, in seconds, without its start and its end.
        predicted: in the same order.
        tolerance: in seconds.

    Raises:
        ValueError: other numbers of utterances, or no reference boundary.
    """
    hits = np.array(
        [matched(np.asarray(a), np.asarray(b), tolerance) for a, b in zip(reference, predicted, strict=True)]
    )
    there, found = np.array([len(times) for times in reference]), np.array([len(times) for times in predicted])
    if there.sum() == 0:
        raise ValueError("the reference has no boundary inside an utterance")
    recall = float(hits.sum() / there.sum())
    over = float(found.sum() / there.sum()) - 1
    away, along = sqrt((1 - recall) ** 2 + over**2), (recall - 1 - over) / sqrt(2)
    counts = (there + found).astype(float)
    return BoundaryScore(
        precision=float(hits.sum() / found.sum()) if found.sum() else 0.0,
        recall=recall,
        f1=bootstrap_interval((2.0 * hits).tolist(), counts.tolist()),
        r_value=1 - (away + abs(along)) / 2,
        over_segmentation=over,
        reference=int(there.sum()),
        predicted=int(found.sum()),
    )


def segment_boundaries(segments: Sequence[tuple[str, float, float]], seconds: float = 0.0) -> np.ndarray:
    """The boundaries inside an utterance of segments (name, start, end) in seconds: float64, ascending.

    Every start and every end, those of one time once; not the start at 0, and not the last end, unless more than 25 ms of
    audio come after it. Two equal phones in a row have a boundary between them.

    Args:
        segments: in order of time.
        seconds: length of the audio; 0 takes it to end with the last segment.
    """
    times = np.unique(np.round([time for _, *both in segments for time in both], 6))
    times = times[times > 0]
    return times if len(times) and seconds - times[-1] > END else times[:-1]


def unit_boundaries(units: np.ndarray, rate: float) -> np.ndarray:
    """The times at which the units of frames change: halfway between the centres of two frames, float64, ascending.

    Frame t of an encoder is centred at 0.0125 + t / rate seconds, the middle of its first 25 ms.
    """
    changes = np.flatnonzero(np.diff(np.asarray(units).astype(np.int64))) + 1
    return 0.0125 + (changes - 0.5) / rate
