"""Spoken term detection: maximum term-weighted value (MTWV) and score normalisation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

STD_FLOOR = 1e-9


class MTWV(NamedTuple):
    """The maximum term-weighted value (1 is perfect, 0 detects nothing) and the score from which a document is a hit."""

    value: float
    threshold: float


def false_alarm_weight(target_probability: float = 0.0008, miss_cost: float = 100.0, alarm_cost: float = 1.0) -> float:
    """Beta, the weight of the false alarm rate: alarm cost / miss cost x (1 / P_target - 1).

    The defaults are QUESST 2014's and give 12.49.

    Raises:
        ValueError: a cost that is not positive, or a probability outside (0, 1].
    """
    if not 0 < target_probability <= 1 or miss_cost <= 0 or alarm_cost <= 0:
        raise ValueError("false_alarm_weight needs positive costs and a target probability above 0 and up to 1")
    return alarm_cost / miss_cost * (1 / target_probability - 1)


def query_values(
    scores: ArrayLike,
    truth: ArrayLike,
    threshold: float,
    *,
    beta: float = 12.49,
    absent_queries: int = 0,
    absent_documents: int = 0,
    default_score: float = -10.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The term-weighted value of each query at a threshold, whose mean `maximum_term_weighted_value` maximises.

    Args as there. Returns the numbers of the queries with a target `(queries,)`, their values, and weights: the sum of values
    over the sum of weights is the value of all queries. Absent queries are shared out among the others.
    """
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    kept = np.flatnonzero(truth.any(1))
    scores, truth = scores[kept], truth[kept]
    found, passed = scores >= threshold, default_score >= threshold
    targets = truth.sum(1)
    others = truth.shape[1] - targets + absent_documents
    alarms = (found & ~truth).sum(1) + absent_documents * passed
    values = (found & truth).sum(1) / targets - beta * alarms / np.maximum(others, 1)
    share = absent_queries / max(len(kept), 1)
    return kept, values + share * (1 - beta) * passed, np.full(len(kept), 1 + share)


def z_normalise(scores: ArrayLike) -> np.ndarray:
    """Zero mean and unit standard deviation for each query, so that one threshold fits all queries.

    As s3prl `downstream/quesst14_dtw/expert.py`: population deviation, floor 1e-9. A query with equal scores for all
    documents gets zeros.

    Args:
        scores: `(queries, documents)`.

    Returns:
        float64 `(queries, documents)`.

    Raises:
        ValueError: the scores do not have two dimensions, or there are no documents.
    """
    table = np.asarray(scores, dtype=np.float64)
    if table.ndim != 2 or table.shape[1] == 0:
        raise ValueError(f"z_normalise needs scores (queries, documents) with documents, got shape {table.shape}")
    centred = table - table.mean(1, keepdims=True)
    # In a row of equal scores, rounding of the mean leaves tiny differences that the floor would magnify.
    centred[np.ptp(table, axis=1) == 0] = 0
    return centred / np.maximum(table.std(1, keepdims=True), STD_FLOOR)


def maximum_term_weighted_value(
    scores: ArrayLike,
    truth: ArrayLike,
    *,
    beta: float = 12.49,
    absent_queries: int = 0,
    absent_documents: ArrayLike = 0,
    default_score: float = -10.0,
) -> MTWV:
    """Term-weighted value at the best threshold common to all queries.

    TWV = 1 - mean over queries of (P_miss + beta P_fa), where P_miss is the share of a query's target documents below
    the threshold and P_fa the share of its other documents at or above it (NIST STD 2006; QUESST 2014 with documents in
    place of time). A threshold above all scores is allowed, so the value is never negative. Queries without a target
    document have no P_miss and are left out, false alarms included, as in NIST's definition.

    SUPERB submits the English queries and documents alone to a scorer that knows those of all languages and gives
    `default_score` to missing trials. `absent_queries` and `absent_documents` describe them without their table: at any
    threshold above the default, an absent query is missed (TWV 0), and absent documents raise no false alarm, which lowers
    the false alarm rate of the other queries.

    Args:
        scores: `(queries, documents)`, higher for likelier.
        truth: bool `(queries, documents)`, whether the document holds the query.
        beta: weight of false alarms, see `false_alarm_weight`.
        absent_queries: number of queries with targets of which no trial was scored.
        absent_documents: number of documents without the query that were not scored: one value, or one for each query
            `(queries,)`.
        default_score: score of absent trials.

    Returns:
        The value (SUPERB prints it x 100) and the highest threshold that reaches it, infinite if detecting nothing is
        best.

    Raises:
        ValueError: shapes that do not match, a score that is not finite, negative numbers of absent trials, or no query
            with a target.

    Example:
        >>> maximum_term_weighted_value([[3.0, 1.0, 2.0]], [[True, False, True]])
        MTWV(value=1.0, threshold=2.0)
    """
    scores, truth = np.asarray(scores, dtype=np.float64), np.asarray(truth, dtype=bool)
    if scores.ndim != 2 or scores.shape != truth.shape:
        raise ValueError(f"MTWV needs scores and truth (queries, documents), got {scores.shape} and {truth.shape}")
    if not np.isfinite(scores).all():
        raise ValueError("MTWV got a score that is not a finite number")
    absent = np.broadcast_to(np.asarray(absent_documents), len(scores))
    if absent_queries < 0 or (absent < 0).any():
        raise ValueError("MTWV needs numbers of absent queries and documents that are not negative")

    kept = truth.any(1)
    scores, truth, absent = scores[kept], truth[kept], absent[kept]
    queries = len(scores) + absent_queries
    if queries == 0:
        raise ValueError("MTWV needs at least one query with a target document")

    # TWV = mean of (hit rate - beta x false alarm rate): as the threshold falls, each trial it passes adds its gain.
    targets = truth.sum(1)
    others = truth.shape[1] - targets + absent
    hit, alarm = 1 / targets, beta / np.maximum(others, 1)
    gains = np.append(
        np.where(truth, hit[:, None], -alarm[:, None]), absent_queries * (1 - beta) - (alarm * absent).sum()
    )
    flat = np.append(scores, default_score)
    order = np.argsort(-flat, kind="stable")
    flat = flat[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(flat)), len(flat) - 1)
    values = np.append(0.0, np.cumsum(gains[order])[last_of_tie] / queries)
    best = int(values.argmax())
    return MTWV(float(values[best]), float(flat[last_of_tie[best - 1]]) if best else float("inf"))
