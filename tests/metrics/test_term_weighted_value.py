"""MTWV against a search over all thresholds with every trial spelt out, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import zscore

from wavlm_lightning.metrics import MTWV, false_alarm_weight, maximum_term_weighted_value, z_normalise


def searched(scores, truth, beta, threshold_values):
    """The definition, one query and one threshold at a time."""
    best = (0.0, np.inf)
    for threshold in sorted(threshold_values, reverse=True):
        costs = []
        for row, hits in zip(scores, truth, strict=True):
            if hits.any():
                alarm = (row[~hits] >= threshold).mean() if (~hits).any() else 0.0
                costs.append((row[hits] < threshold).mean() + beta * alarm)
        value = 1 - np.mean(costs)
        if value > best[0] + 1e-12:
            best = (value, threshold)
    return best


def random_trials(seed, queries=6, documents=30):
    rng = np.random.default_rng(seed)
    truth = rng.random((queries, documents)) < 0.15
    truth[0] = seed % 2  # a query without targets, or one without others
    truth[1, 3] = True
    scores = rng.normal(size=truth.shape) + 2.5 * truth
    return (np.round(scores, 1) if seed % 3 else scores), truth, float(rng.choice([0.2, 1.0, 12.49]))


@pytest.mark.parametrize("seed", range(30))
def test_against_a_search(seed):
    scores, truth, beta = random_trials(seed)
    found = maximum_term_weighted_value(scores, truth, beta=beta)
    value, threshold = searched(scores, truth, beta, np.unique(scores))
    assert found.value == pytest.approx(value, abs=1e-12)
    assert found.threshold == pytest.approx(threshold) or value == 0


@pytest.mark.parametrize("seed", range(30))
@pytest.mark.parametrize("default", [-10.0, 0.5])
def test_absent_trials_are_trials_at_the_default(seed, default):
    """The same as filling the whole table, also where the default is a score among others."""
    scores, truth, beta = random_trials(seed)
    scores, truth = scores[1:], truth[1:]
    rng = np.random.default_rng(seed)
    absent_queries, absent_documents = int(rng.integers(0, 5)), int(rng.integers(0, 40))
    full = np.full((len(scores) + absent_queries, scores.shape[1] + absent_documents), default)
    full[: len(scores), : scores.shape[1]] = scores
    full_truth = np.zeros(full.shape, dtype=bool)
    full_truth[: len(scores), : scores.shape[1]] = truth
    full_truth[len(scores) :, 0] = True  # what an absent query is about cannot matter: it never scores
    full_truth[len(scores) :, 1:3] = rng.random((absent_queries, 2)) < 0.5
    found = maximum_term_weighted_value(
        scores,
        truth,
        beta=beta,
        absent_queries=absent_queries,
        absent_documents=absent_documents,
        default_score=default,
    )
    assert found.value == pytest.approx(searched(full, full_truth, beta, np.unique(full))[0], abs=1e-12)


def test_a_quarter_of_the_queries_gives_a_quarter_of_the_value():
    scores, truth = np.eye(4), np.eye(4, dtype=bool)
    assert maximum_term_weighted_value(scores, truth).value == 1
    assert maximum_term_weighted_value(scores, truth, absent_queries=12).value == 0.25


def test_absent_documents_a_query():
    """Each query has one hit below one false alarm; only the second can afford the alarm, thanks to its documents."""
    scores, truth = np.array([[2.0, 1.0], [2.0, 1.0]]), np.array([[False, True], [False, True]])
    few = maximum_term_weighted_value(scores, truth, beta=10, absent_documents=[0, 0])
    assert few == MTWV(0.0, float("inf"))
    many = maximum_term_weighted_value(scores, truth, beta=10, absent_documents=[19, 99])
    assert many == MTWV(pytest.approx(1 - (10 / 20 + 10 / 100) / 2), 1.0)


def test_by_hand():
    truth = np.array([[True, False, True, False]])
    assert maximum_term_weighted_value([[4, 1, 3, 2]], truth) == MTWV(1.0, 3.0)
    assert maximum_term_weighted_value([[4, 3, 2, 1]], truth) == MTWV(0.5, 4.0)  # the second hit costs an alarm
    assert maximum_term_weighted_value([[1, 4, 2, 3]], truth) == MTWV(0.0, float("inf"))
    assert maximum_term_weighted_value([[5, 5, 5, 5]], truth) == MTWV(0.0, float("inf"))
    assert maximum_term_weighted_value([[5, 5, 5, 5]], truth, beta=0.5) == MTWV(0.5, 5.0)
    assert maximum_term_weighted_value([[4, 1]], [[True, True]]) == MTWV(1.0, 1.0)  # no document to be wrong about


def test_queries_without_targets_are_left_out():
    found = maximum_term_weighted_value([[1, 2], [9, 8]], [[False, True], [False, False]])
    assert found == MTWV(1.0, 2.0)
    assert maximum_term_weighted_value([[9, 8]], [[False, False]], absent_queries=3).value == 0
    with pytest.raises(ValueError, match="at least one query"):
        maximum_term_weighted_value([[9, 8]], [[False, False]])
    with pytest.raises(ValueError, match="at least one query"):
        maximum_term_weighted_value(np.zeros((0, 5)), np.zeros((0, 5), dtype=bool))


@pytest.mark.parametrize(
    ("scores", "truth", "options", "message"),
    [
        ([1.0], [True], {}, "queries, documents"),
        ([[1.0]], [[True, False]], {}, "queries, documents"),
        ([[np.nan]], [[True]], {}, "not a finite number"),
        ([[1.0]], [[True]], {"absent_queries": -1}, "not negative"),
        ([[1.0]], [[True]], {"absent_documents": [-1]}, "not negative"),
    ],
)
def test_refuses(scores, truth, options, message):
    with pytest.raises(ValueError, match=message):
        maximum_term_weighted_value(scores, truth, **options)


def test_false_alarm_weight():
    assert false_alarm_weight() == pytest.approx(12.49)
    assert false_alarm_weight(0.5, 1, 1) == 1
    with pytest.raises(ValueError, match="probability"):
        false_alarm_weight(0)


def test_z_normalise():
    scores = np.random.default_rng(0).normal(3, 5, (4, 50))
    np.testing.assert_allclose(z_normalise(scores), zscore(scores, axis=1), atol=1e-12)
    assert (z_normalise(np.full((2, 7), 0.1)) == 0).all()
    assert z_normalise(np.zeros((0, 3))).shape == (0, 3)
    with pytest.raises(ValueError, match="queries, documents"):
        z_normalise(np.zeros((3, 0)))
