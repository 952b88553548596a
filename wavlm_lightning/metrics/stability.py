"""What units are without phones: agreement of two codebooks on the same frames, and the lengths of runs of one unit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Stability:
    """How far two labellings of the same frames say the same.

    Attributes:
        nmi: mutual information over the mean of the two entropies: 1 if one renames the other, 0 if they are independent.
        agreement: share of frames that agree when each unit of one is paired with one unit of the other, in the best way.
        frames: number of frames compared.
    """

    nmi: float
    agreement: float
    frames: int


@dataclass(frozen=True)
class SegmentLengths:
    """Lengths of the runs of one unit, in milliseconds."""

    mean: float
    median: float
    segments: int


def stability(one: np.ndarray, other: np.ndarray) -> Stability:
    """Compare two labellings of the same frames, such as those of codebooks of two seeds.

    Args:
        one: whole numbers `(frames,)`.
        other: whole numbers `(frames,)`.

    Raises:
        ValueError: the labellings differ in length or are empty.

    Example:
        >>> stability(np.array([0, 0, 1]), np.array([7, 7, 3])).agreement
        1.0
    """
    from scipy.optimize import linear_sum_assignment

    if len(one) != len(other) or len(one) == 0:
        raise ValueError(f"stability needs two labellings of the same frames, got {len(one)} and {len(other)}")
    _, left = np.unique(one, return_inverse=True)
    _, right = np.unique(other, return_inverse=True)
    counts = np.zeros((left.max() + 1, right.max() + 1))
    np.add.at(counts, (left, right), 1)
    joint = counts / counts.sum()
    by_left, by_right = joint.sum(1), joint.sum(0)
    seen = joint > 0
    information = float((joint[seen] * np.log(joint[seen] / np.outer(by_left, by_right)[seen])).sum())
    entropies = -float((by_left * np.log(by_left)).sum() + (by_right * np.log(by_right)).sum())
    pairs = linear_sum_assignment(counts, maximize=True)
    return Stability(
        nmi=2 * information / entropies if entropies > 0 else 1.0,
        agreement=float(counts[pairs].sum() / counts.sum()),
        frames=len(one),
    )


def segment_lengths(rows: Iterable[np.ndarray], rate: float) -> SegmentLengths:
    """Lengths of the runs of one unit in the frames of some utterances.

    Args:
        rows: units of the frames of each utterance, whole numbers `(frames,)`.
        rate: frames per second.

    Raises:
        ValueError: no frame.
    """
    runs = []
    for row in rows:
        if len(row):
            changes = np.flatnonzero(np.diff(np.asarray(row).astype(np.int64))) + 1
            runs.append(np.diff(np.concatenate([[0], changes, [len(row)]])))
    if not runs:
        raise ValueError("segment lengths need at least one frame")
    lengths = np.concatenate(runs) * (1000 / rate)
    return SegmentLengths(float(lengths.mean()), float(np.median(lengths)), len(lengths))
