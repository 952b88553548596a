"""Scores of speaker verification after the cosine: adaptive score normalisation, calibration by quality, Cllr."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

BLOCK = 1 << 25  # cosines in memory at a time
LONGEST = 20.0  # seconds from which on an utterance counts as long
QUALITIES = ("duration", "norm", "cohort")
INPUTS = ("score", *(f"{quality}.{how}" for quality in QUALITIES for how in ("min", "max", "difference", "ratio")))


class Cohort(NamedTuple):
    """Mean and population deviation of the cosines of utterances with their nearest of a cohort, each `(utterances,)`."""

    mean: np.ndarray
    deviation: np.ndarray


def cohort_statistics(embeddings: ArrayLike, cohort: ArrayLike, top: int = 300, own: ArrayLike | None = None) -> Cohort:
    """How near utterances are to voices that are not in the trials: what adaptive normalisation takes off.

    Args:
        embeddings: of the utterances, `(utterances, dim)`, of any length.
        cohort: such as the mean embedding of each training speaker, `(voices, dim)`.
        top: the nearest of the cohort that count for an utterance; all, if there are fewer.
        own: the voice of each utterance in the cohort, int `(utterances,)`, which does not count; None if it has none there.

    Raises:
        ValueError: another shape, fewer than two voices, or values that are not finite.
    """
    rows, voices = _unit(embeddings), _unit(cohort)
    others = len(voices) if own is None else len(voices) - 1
    top = min(top, others)
    if top < 2:
        raise ValueError(f"a cohort needs at least two voices, and there are {others}")
    places = None if own is None else np.asarray(own, dtype=np.int64)
    means, deviations = [], []
    step = max(1, BLOCK // len(voices))
    for begin in range(0, len(rows), step):
        cosines = rows[begin : begin + step] @ voices.T
        if places is not None:
            np.put_along_axis(cosines, places[begin : begin + step, None], -np.inf, axis=1)
        nearest = np.partition(cosines, len(voices) - top, axis=1)[:, -top:]
        means.append(nearest.mean(1))
        deviations.append(nearest.std(1))
    return Cohort(np.concatenate(means), np.concatenate(deviations))


def adaptive_norm(scores: ArrayLike, first: Cohort, second: Cohort) -> np.ndarray:
    """AS-norm (Matejka et al., Interspeech 2017): each score in deviations from the cohorts of both sides, their mean.

    Args:
        scores: cosines of trials, `(trials,)`.
        first: statistics of the first side of each trial, `(trials,)`.
        second: of the second side.

    Raises:
        ValueError: an utterance is equally near to all of its cohort.
    """
    values = np.asarray(scores, dtype=np.float64)
    if min(first.deviation.min(), second.deviation.min()) <= 0:
        raise ValueError("an utterance is equally near to all of the cohort, so there is no scale for its scores")
    return 0.5 * ((values - first.mean) / first.deviation + (values - second.mean) / second.deviation)


def quality_inputs(scores: ArrayLike, durations: ArrayLike, norms: ArrayLike, cohort_means: ArrayLike) -> np.ndarray:
    """The inputs of the calibration, `(trials, 13)`, named by `INPUTS`.

    Args:
        scores: of the trials, `(trials,)`.
        durations: seconds of both sides, `(trials, 2)`; more than 20 count as 20.
        norms: lengths of both embeddings, `(trials, 2)`.
        cohort_means: of `cohort_statistics` of both sides, `(trials, 2)`.
    """
    columns = [np.asarray(scores, dtype=np.float64)]
    for values in (np.minimum(np.asarray(durations, dtype=np.float64), LONGEST), norms, cohort_means):
        low, high = np.sort(np.asarray(values, dtype=np.float64), axis=1).T
        columns += [low, high, high - low, high / np.where(low == 0, 1e-12, low)]
    return np.stack(columns, axis=1)


@dataclass(frozen=True)
class Calibration:
    """A linear function of scores and qualities whose value is a log-likelihood ratio, in nats.

    Attributes:
        weights: `(inputs,)`.
        bias: added to the weighted inputs.
    """

    weights: np.ndarray
    bias: float

    def __call__(self, inputs: ArrayLike) -> np.ndarray:
        """Log-likelihood ratios `(trials,)` of `(trials, inputs)`."""
        return np.asarray(inputs, dtype=np.float64) @ self.weights + self.bias


def fit_calibration(inputs: ArrayLike, same: ArrayLike) -> Calibration:
    """The calibration with the least `cllr` on trials that are in no test (QMF; Thienpondt et al., ICASSP 2021).

    Args:
        inputs: `(trials, inputs)`, such as `quality_inputs`.
        same: whether a trial is of one speaker, `(trials,)`.

    Raises:
        ValueError: only one kind of trials, or values that are not finite.
    """
    from sklearn.linear_model import LogisticRegression

    values, labels = np.asarray(inputs, dtype=np.float64), np.asarray(same).astype(bool)
    if not np.isfinite(values).all():
        raise ValueError("a calibration needs finite inputs")
    if labels.all() or not labels.any():
        raise ValueError("a calibration needs trials of one speaker and of two")
    centre, scale = values.mean(0), values.std(0)
    scale[scale == 0] = 1.0
    # Logistic regression in which both kinds weigh the same minimises Cllr. The penalty, of a ten-thousandth, keeps weights
    # finite where trials are perfectly separated.
    fitted = LogisticRegression(C=1e4, class_weight="balanced", max_iter=1000).fit((values - centre) / scale, labels)
    weights = fitted.coef_[0] / scale
    return Calibration(weights, float(fitted.intercept_[0] - centre @ weights))


def cllr(ratios: ArrayLike, same: ArrayLike) -> float:
    """Cost of log-likelihood ratios (Brummer and du Preez 2006), in bits: 0 is perfect, 1 is knowing nothing.

    Args:
        ratios: natural logarithms, `(trials,)`.
        same: whether a trial is of one speaker, `(trials,)`.
    """
    values, labels = np.asarray(ratios, dtype=np.float64), np.asarray(same).astype(bool)
    if labels.all() or not labels.any():
        raise ValueError("Cllr needs trials of one speaker and of two")
    costs = np.logaddexp(0, -values[labels]).mean(), np.logaddexp(0, values[~labels]).mean()
    return float(sum(costs) / (2 * np.log(2)))


def _unit(rows: ArrayLike) -> np.ndarray:
    values = np.asarray(rows, dtype=np.float64)
    if values.ndim != 2 or not np.isfinite(values).all():
        raise ValueError("embeddings must be finite and of shape (utterances, dim)")
    return values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), 1e-12)
