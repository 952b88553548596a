"""The equal error rate against a root finder on scikit-learn's ROC, and by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.interpolate import interp1d
from scipy.optimize import brentq
from sklearn.metrics import roc_curve

from wavlm_lightning.metrics import equal_error_rate


def by_root_finding(scores, same):
    false_alarms, hits, _ = roc_curve(same, scores, drop_intermediate=False)
    return brentq(lambda rate: 1 - rate - interp1d(false_alarms, hits)(rate), 0, 1)


@pytest.mark.parametrize("seed", range(60))
def test_against_a_root_finder(seed):
    rng = np.random.default_rng(seed)
    trials = int(rng.integers(2, 400))
    same = rng.random(trials) < rng.choice([0.1, 0.5, 0.9])
    same[:2] = [True, False]
    scores = rng.normal(size=trials) + rng.choice([-2, 0, 1, 4]) * same
    if seed % 2:
        scores = np.round(scores, seed % 3)  # ties within and across the two kinds
    assert equal_error_rate(scores, same)[0] == pytest.approx(by_root_finding(scores, same), abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_threshold_splits_the_trials_at_the_rate(seed):
    """Without ties the rates on both sides of the threshold enclose the equal error rate."""
    rng = np.random.default_rng(seed)
    same = rng.random(500) < 0.4
    scores = rng.normal(size=500) + same
    rate, threshold = equal_error_rate(scores, same)
    accepted = scores >= threshold
    one_trial = 1 / min(same.sum(), (~same).sum())
    assert accepted[~same].mean() == pytest.approx(rate, abs=one_trial)
    assert (~accepted[same]).mean() == pytest.approx(rate, abs=one_trial)


def test_by_hand():
    assert equal_error_rate([0.9, 0.8, 0.3, 0.1], [1, 0, 1, 0])[0] == 0.5
    assert equal_error_rate([5, 4, 3, 2, 1], [1, 1, 0, 1, 0])[0] == pytest.approx(1 / 3)
    assert equal_error_rate([2, 2, 2, 1], [True, True, False, False])[0] == pytest.approx(1 / 3)


def test_perfect_inverted_and_useless():
    perfect, threshold = equal_error_rate(np.array([3.0, 2.0, 1.0], dtype=np.float32), np.array([1, 1, 0]))
    assert perfect == 0
    assert 1 < threshold <= 2
    assert equal_error_rate([1, 2, 3], [1, 0, 0])[0] == 1
    assert equal_error_rate([7, 7, 7, 7, 7], [1, 0, 0, 1, 0]) == (0.5, 7)


@pytest.mark.parametrize(
    ("scores", "same", "message"),
    [
        ([1.0, 2.0], [1, 1], "pairs of both kinds"),
        ([1.0, 2.0], [0, 0], "pairs of both kinds"),
        ([], [], "pairs of both kinds"),
        ([1.0], [1, 0], "one label for each score"),
        ([[1.0, 2.0]], [[1, 0]], "one label for each score"),
        ([1.0, np.nan], [1, 0], "not a finite number"),
        ([1.0, 2.0], [1, 2], "labels of 0"),
    ],
)
def test_refuses(scores, same, message):
    with pytest.raises(ValueError, match=message):
        equal_error_rate(scores, same)
