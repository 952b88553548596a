"""Speaker verification: equal error rate of scored pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike


def equal_error_rate(scores: ArrayLike, same: ArrayLike) -> tuple[float, float]:
    """The rate at which false rejections equal false acceptances, on the interpolated ROC.

    The value of s3prl (`downstream/sv_voxceleb1/utils.py`, `EER`), which searches it with a root finder. The ROC is a
    rising polyline and misses = false alarms a falling line, so they cross once, and the crossing has a closed form:
    between two neighbouring thresholds the two rates are linear.

    Args:
        scores: float `(trials,)`, higher for pairs that are more alike.
        same: bool or 0/1 `(trials,)`, whether both sides are one speaker.

    Returns:
        The rate, a fraction, and the threshold (accept from there up) that comes nearest to it.

    Raises:
        ValueError: shapes that differ, a score that is not finite, labels besides 0 and 1, or only one of the two kinds.

    Example:
        >>> equal_error_rate([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0])
        (0.5, 0.8)
    """
    scores, labels = np.asarray(scores, dtype=np.float64), np.asarray(same)
    if scores.ndim != 1 or scores.shape != labels.shape:
        raise ValueError(f"equal_error_rate needs one label for each score, got shapes {scores.shape}, {labels.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("equal_error_rate got a score that is not a finite number")
    if not np.isin(labels, (0, 1)).all():
        raise ValueError("equal_error_rate needs labels of 0 (two speakers) and 1 (the same speaker)")
    labels = labels.astype(bool)
    targets = int(labels.sum())
    others = len(labels) - targets
    if targets == 0 or others == 0:
        raise ValueError(f"equal_error_rate needs pairs of both kinds, got {targets} of one speaker in {len(labels)}")

    order = np.argsort(-scores, kind="stable")
    scores, labels = scores[order], labels[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    accepted = np.append(0, np.cumsum(labels)[last_of_tie])
    false_alarms = np.append(0, np.cumsum(~labels)[last_of_tie])
    # (false alarm rate - miss rate) x targets x others, in integers so that an exact crossing is found exactly.
    excess = false_alarms * targets - (targets - accepted) * others
    after = int(np.argmax(excess >= 0))  # never 0: accepting no pair misses all targets
    before = after - 1
    share = -excess[before] / (excess[after] - excess[before])
    rate = (false_alarms[before] + share * (false_alarms[after] - false_alarms[before])) / others
    # The corner where no pair is accepted has no threshold, so the first interval uses the highest score.
    upper, lower = scores[last_of_tie[max(before - 1, 0)]], scores[last_of_tie[before]]
    return float(rate), float(upper + share * (lower - upper))


def minimum_detection_cost(
    scores: ArrayLike,
    same: ArrayLike,
    target_probability: float = 0.01,
    miss_cost: float = 1.0,
    alarm_cost: float = 1.0,
) -> tuple[float, float]:
    """The normalised detection cost at the best threshold (NIST SRE 2016 evaluation plan, section 3.2).

    The cost of misses and false alarms is divided by that of the better of two systems that do not listen: one that accepts
    every pair and one that accepts none.

    Args:
        scores: float `(trials,)`, higher for pairs that are more alike.
        same: bool or 0/1 `(trials,)`, whether both sides are one speaker.
        target_probability: prior of a pair of one speaker; 0.01 and 0.05 are usual, so name it beside the value.
        miss_cost: of rejecting one speaker.
        alarm_cost: of accepting two.

    Returns:
        The cost and its threshold (accept from there up; infinite if none is accepted).

    Raises:
        ValueError: as `equal_error_rate`, or a prior outside (0, 1).

    Example:
        >>> minimum_detection_cost([0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0])
        (0.0, 0.8)
    """
    if not 0 < target_probability < 1:
        raise ValueError(f"the prior must lie between 0 and 1, not {target_probability}")
    equal_error_rate(scores, same)  # checks the trials
    values, labels = np.asarray(scores, dtype=np.float64), np.asarray(same).astype(bool)
    order = np.argsort(-values, kind="stable")
    values, labels = values[order], labels[order]
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    misses = 1 - np.append(0, np.cumsum(labels)[ends]) / labels.sum()
    alarms = np.append(0, np.cumsum(~labels)[ends]) / (~labels).sum()
    costs = miss_cost * target_probability * misses + alarm_cost * (1 - target_probability) * alarms
    best = int(np.argmin(costs))
    floor = min(miss_cost * target_probability, alarm_cost * (1 - target_probability))
    return float(costs[best] / floor), float("inf") if best == 0 else float(values[ends[best - 1]])
