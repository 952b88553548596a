"""Intervals cover the truth as often as they say, and equal systems are told apart as rarely as they should be."""

import numpy as np
import pytest

from wavlm_lightning.metrics.intervals import bootstrap_interval, paired_p_value
from wavlm_lightning.metrics.verification import minimum_detection_cost


def test_intervals_hold_the_true_rate_as_often_as_they_say():
    rng = np.random.default_rng(0)
    held, truth = 0, 0.2
    for trial in range(400):
        words = rng.integers(3, 20, 150)
        found = bootstrap_interval(rng.binomial(words, truth), words, resamples=500, seed=trial)
        assert found.low <= found.value <= found.high
        held += found.low <= truth <= found.high
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.slow
def test_speakers_that_differ_need_resampling_by_speaker():
    rng = np.random.default_rng(1)
    held = {"utterances": 0, "speakers": 0}
    for trial in range(200):
        rates = rng.beta(2, 8, 30)  # of each speaker; the mean is 0.2
        speakers = np.repeat(np.arange(30), 20)
        errors = rng.binomial(10, rates[speakers])
        for name, groups in (("utterances", None), ("speakers", speakers.tolist())):
            found = bootstrap_interval(errors, [10] * 600, groups, resamples=300, seed=trial)
            held[name] += found.low <= 0.2 <= found.high
    assert held["speakers"] / 200 > 0.88 and held["utterances"] / 200 < 0.7


@pytest.mark.parametrize("by_speaker", [False, True])
def test_two_encoders_of_equal_truth_are_significant_in_at_most_seven_per_cent(by_speaker):
    rng = np.random.default_rng(2)
    significant = 0
    for trial in range(500):
        difficulty = rng.beta(1, 4, 120)  # one utterance is harder for both
        one, other = (rng.binomial(8, difficulty) for _ in range(2))
        groups = (np.arange(120) // 4).tolist() if by_speaker else None
        significant += paired_p_value(one, other, groups, resamples=400, seed=trial) < 0.05
    assert 0.02 <= significant / 500 <= 0.07


def test_a_real_difference_is_found_and_equal_results_are_not_different():
    rng = np.random.default_rng(3)
    one = rng.binomial(10, 0.3, 200)
    assert paired_p_value(one, rng.binomial(10, 0.2, 200)) < 0.001
    assert paired_p_value(one, one) == 1.0


def test_the_same_numbers_every_time_and_refusals():
    assert bootstrap_interval([1, 0, 2], [3, 4, 5]) == bootstrap_interval([1, 0, 2], [3, 4, 5])
    for errors, counts in (([], []), ([0, 0], [0, 0])):
        with pytest.raises(ValueError, match="a rate needs"):
            bootstrap_interval(errors, counts)


@pytest.mark.parametrize("prior", [0.01, 0.05, 0.5])
def test_the_detection_cost_is_the_least_over_all_thresholds(prior):
    rng = np.random.default_rng(4)
    same = rng.random(300) < 0.3
    scores = np.round(rng.normal(size=300) + 1.5 * same, 1)  # with ties
    costs = [
        (prior * (scores[same] < at).mean() + (1 - prior) * (scores[~same] >= at).mean()) / min(prior, 1 - prior)
        for at in [*np.unique(scores), np.inf]
    ]
    found, threshold = minimum_detection_cost(scores, same, prior)
    assert found == pytest.approx(min(costs))
    at = prior * (scores[same] < threshold).mean() + (1 - prior) * (scores[~same] >= threshold).mean()
    assert at / min(prior, 1 - prior) == pytest.approx(found)
    with pytest.raises(ValueError, match="prior"):
        minimum_detection_cost(scores, same, 1.0)
