"""How sure a score is: bootstrap intervals and paired comparisons over utterances or speakers (Bisani and Ney, ICASSP 2004).

Every rate of ours is a ratio of two sums over utterances: errors over words, seconds of error over seconds of speech, hits
over utterances. Resampling whole speakers instead of utterances keeps together what is alike.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

RESAMPLES = 2000
LEVEL = 0.95
BLOCK = 1 << 22  # drawn counts in memory at a time


class Interval(NamedTuple):
    """A rate and the ends of its interval, as fractions."""

    value: float
    low: float
    high: float


def bootstrap_interval(
    errors: Sequence[float],
    counts: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The rate sum(errors) / sum(counts) with a percentile bootstrap interval.

    Args:
        errors: of each utterance, such as wrong words; `(utterances,)`.
        counts: of each utterance, such as words of the reference.
        groups: speaker of each utterance, to resample speakers; None resamples utterances.
        level: share of intervals that hold the true rate.
        resamples: number of resamples; the same numbers are drawn every time.
        seed: of the resamples.

    Raises:
        ValueError: no utterance, or nothing to count.

    Example:
        >>> bootstrap_interval([0, 1, 0, 1], [1, 1, 1, 1]).value
        0.5
    """
    rates = resampled_rates(errors, counts, groups, resamples, seed)
    total = float(np.sum(counts))
    if total <= 0:
        raise ValueError("a rate needs something to count")
    low, high = np.quantile(rates[~np.isnan(rates)], [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(np.sum(errors)) / total, float(low), float(high))


def exact_interval(value: float, number: int, level: float = LEVEL) -> Interval:
    """The interval of Clopper and Pearson (1934) of a share that is 0 or 1 because each of `number` utterances says so.

    Resamples of equal results are all equal, though another utterance may well differ.

    Example:
        >>> exact_interval(1.0, 12)
        Interval(value=1.0, low=0.7353..., high=1.0)
    """
    room = 1 - ((1 - level) / 2) ** (1 / number)
    return Interval(value, max(0.0, value - room), min(1.0, value + room))


def resampled_rates(
    errors: Sequence[float],
    counts: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> np.ndarray:
    """The rate on each resample, `(resamples,)`; NaN where nothing is counted. See `bootstrap_interval`."""
    drawn = _resampled(_grouped([errors, counts], groups), resamples, seed)
    return np.where(drawn[:, 1] > 0, drawn[:, 0] / np.maximum(drawn[:, 1], 1e-12), np.nan)


def resampled_sums(
    rows: np.ndarray, groups: Sequence[Hashable] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Sums on each resample of rows `(utterances, columns)`, `(resamples, columns)`; for figures that are no rate."""
    return _resampled(_grouped(list(rows.T), groups), resamples, seed)


def exchanged_sums(
    rows: np.ndarray,
    others: np.ndarray,
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Sums of two systems `(utterances, columns)` with their results exchanged at random, `(resamples, columns)` each.

    Approximate randomisation (Riezler and Maxwell 2005), for figures that are no rate; see `paired_p_value`.
    """
    one, other = (_grouped(list(each.T), groups) for each in (rows, others))
    rng, found = np.random.default_rng(seed), []
    step = max(1, BLOCK // len(one))
    for begin in range(0, resamples, step):
        kept = rng.integers(0, 2, (min(step, resamples - begin), len(one)), dtype=np.int8)
        found.append(kept @ (one - other))
    gained = np.concatenate(found)
    return other.sum(0) + gained, one.sum(0) - gained


def paired_p_value(
    errors: Sequence[float],
    others: Sequence[float],
    groups: Sequence[Hashable] | None = None,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> float:
    """Two-sided p-value for equal error rates of two systems on the same utterances: signs of differences are exchanged.

    A permutation test: under the null hypothesis the two results of an utterance (or of all utterances of a speaker) could
    have come from either system. Counts are equal for both, so that errors alone decide.

    Args:
        errors: of each utterance under one system, `(utterances,)`.
        others: under the other one, in the same order.
        groups: speaker of each utterance, to exchange whole speakers.
        resamples: number of permutations.
        seed: of the permutations.

    Example:
        >>> paired_p_value([1, 0, 1, 1], [1, 0, 1, 1])
        1.0
    """
    differences = _grouped([np.asarray(errors, float) - np.asarray(others, float)], groups)[:, 0]
    differences = differences[differences != 0]
    if not len(differences):
        return 1.0
    observed = abs(differences.sum())
    rng = np.random.default_rng(seed)
    beyond = 0
    step = max(1, BLOCK // len(differences))
    for begin in range(0, resamples, step):
        rows = min(step, resamples - begin)
        signs = rng.integers(0, 2, (rows, len(differences)), dtype=np.int8) * 2 - 1
        beyond += int((np.abs(signs @ differences) >= observed - 1e-9).sum())
    return (beyond + 1) / (resamples + 1)


def _grouped(columns: Sequence[Sequence[float]], groups: Sequence[Hashable] | None) -> np.ndarray:
    """Sums of each group, float64 `(groups, columns)`; each utterance is its own group by default."""
    values = np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)
    if not len(values):
        raise ValueError("a rate needs at least one utterance")
    if groups is None:
        return values
    places: dict[Hashable, int] = {}
    members = np.array([places.setdefault(group, len(places)) for group in groups])
    sums = np.zeros((len(places), values.shape[1]))
    np.add.at(sums, members, values)
    return sums


def _resampled(values: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums of as many rows as there are, drawn with replacement: `(resamples, columns)`."""
    rng = np.random.default_rng(seed)
    rows = len(values)
    found = []
    step = max(1, BLOCK // rows)
    for begin in range(0, resamples, step):
        drawn = rng.multinomial(rows, np.full(rows, 1 / rows), size=min(step, resamples - begin))
        found.append(drawn @ values)
    return np.concatenate(found)
