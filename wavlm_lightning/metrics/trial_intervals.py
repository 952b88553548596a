"""How sure an equal error rate or a detection cost is: bootstrap over the speakers of the trials, or over the trials.

A trial of two speakers depends on both of them, and one speaker is in many trials, so that trials are no independent draws.
Resampled speakers carry their trials along: one drawn twice counts twice in trials of its own, and a trial of two speakers
counts as the product of their draws (the bootstrap of a U-statistic; for verification see Poh and Bengio, ICASSP 2007).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence

import numpy as np
from numpy.typing import ArrayLike

from wavlm_lightning.metrics.intervals import BLOCK, LEVEL, RESAMPLES, Interval

Measure = Callable[[np.ndarray, np.ndarray], np.ndarray]


def equal_error(misses: np.ndarray, alarms: np.ndarray) -> np.ndarray:
    """The rate at which the two are equal, `(resamples,)`, from rates at falling thresholds `(resamples, thresholds + 1)`.

    As `equal_error_rate`, whose ROC joins neighbouring thresholds by straight lines.
    """
    excess = alarms - misses
    after = np.argmax(excess >= -1e-12, axis=1)[:, None]  # never 0: accepting no pair misses all
    before = after - 1
    below, above = np.take_along_axis(excess, before, 1), np.take_along_axis(excess, after, 1)
    share = -below / np.maximum(above - below, 1e-300)
    first, last = np.take_along_axis(alarms, before, 1), np.take_along_axis(alarms, after, 1)
    return (first + share * (last - first))[:, 0]


def least_cost(prior: float) -> Measure:
    """The measure of `minimum_detection_cost` with equal costs of misses and false alarms."""

    def measure(misses: np.ndarray, alarms: np.ndarray) -> np.ndarray:
        return (prior * misses + (1 - prior) * alarms).min(1) / min(prior, 1 - prior)

    return measure


def trial_measures(
    systems: Sequence[ArrayLike],
    same: ArrayLike,
    speakers: Sequence[tuple[Hashable, Hashable]] | None = None,
    measure: Measure = equal_error,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """A measure of some systems on the same trials, and on resamples of them; all systems see the same resamples.

    Args:
        systems: scores of each system, `(systems, trials)`, higher for pairs that are more alike.
        same: whether both sides of a trial are one speaker, `(trials,)`; both kinds must be there.
        speakers: of the two sides of each trial, to resample speakers; None resamples trials.
        measure: `equal_error` or `least_cost(prior)`.
        resamples: number of resamples; those without trials of both kinds are left out.
        seed: of the resamples.

    Returns:
        Values `(systems,)`, and values of resamples `(resamples, systems)`, as fractions.

    Raises:
        ValueError: trials of one kind alone, or shapes that differ.
    """
    truth, scores = np.asarray(same, dtype=bool), np.asarray(systems, dtype=np.float64)
    if scores.ndim != 2 or scores.shape[1] != len(truth) or not 0 < truth.sum() < len(truth):
        raise ValueError("an error rate of trials needs pairs of both kinds, with a score of each system")
    curves = [_Curve(row, truth) for row in scores]
    whole = np.array([measure(*curve.rates(np.ones((1, len(truth)))))[0] for curve in curves])
    found = []
    for weights in _weights(len(truth), speakers, resamples, seed):
        kept = weights[(weights[:, truth].sum(1) > 0) & (weights[:, ~truth].sum(1) > 0)]
        if len(kept):
            found.append(np.stack([measure(*curve.rates(kept)) for curve in curves], axis=1))
    return whole, np.concatenate(found) if found else np.empty((0, len(curves)))


def trial_interval(
    scores: ArrayLike,
    same: ArrayLike,
    speakers: Sequence[tuple[Hashable, Hashable]] | None = None,
    measure: Measure = equal_error,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The measure of one system with a percentile bootstrap interval; see `trial_measures`."""
    whole, drawn = trial_measures([scores], same, speakers, measure, resamples, seed)
    if not len(drawn):
        raise ValueError("no resample has pairs of both kinds")
    low, high = np.quantile(drawn[:, 0], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(whole[0]), float(low), float(high))


def trial_p_value(whole: np.ndarray, drawn: np.ndarray) -> float:
    """Two-sided p-value for equal measures of two systems, from `trial_measures` of both.

    The differences of the resamples, moved to mean what equal systems would have, say how often chance alone gives one as
    large as that observed. (Signs of single trials cannot be exchanged: two systems score on different scales.)
    """
    observed = float(whole[0] - whole[1])
    if abs(observed) < 1e-12:
        return 1.0
    moved = drawn[:, 0] - drawn[:, 1] - observed
    return float((np.abs(moved) >= abs(observed) - 1e-12).sum() + 1) / (len(drawn) + 1)


class _Curve:
    """The scores of a system in falling order, for error rates at every threshold."""

    def __init__(self, scores: np.ndarray, same: np.ndarray) -> None:
        self.order = np.argsort(-scores, kind="stable")
        self.same = same[self.order]
        self.ends = np.append(np.flatnonzero(np.diff(scores[self.order])), len(scores) - 1)  # the last of each tie

    def rates(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Misses and false alarms at falling thresholds, `(resamples, thresholds + 1)`; the first accepts no pair."""
        ordered = weights[:, self.order]
        rates = []
        for kind in (self.same, ~self.same):
            passed = np.cumsum(ordered * kind, axis=1)[:, self.ends]
            rates.append(np.pad(passed / passed[:, -1:], ((0, 0), (1, 0))))
        return 1 - rates[0], rates[1]


def _weights(
    trials: int, speakers: Sequence[tuple[Hashable, Hashable]] | None, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """How often each trial counts in some resamples, `(some, trials)`."""
    rng = np.random.default_rng(seed)
    step = max(1, BLOCK // trials)
    places: dict[Hashable, int] = {}
    sides = np.array([[places.setdefault(name, len(places)) for name in pair] for pair in speakers or ()])
    units = len(places) if speakers is not None else trials
    for begin in range(0, resamples, step):
        drawn = rng.multinomial(units, np.full(units, 1 / units), size=min(step, resamples - begin)).astype(np.float64)
        if speakers is None:
            yield drawn
        else:
            one, other = sides.T
            yield drawn[:, one] * np.where(one == other, 1.0, drawn[:, other])
