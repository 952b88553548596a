"""Intervals of error rates of trials hold the truth, also where trials share speakers; equal systems rarely differ."""

from statistics import NormalDist

import numpy as np
import pytest

from wavlm_lightning.metrics.trial_intervals import (
    _Curve,
    equal_error,
    least_cost,
    trial_interval,
    trial_measures,
    trial_p_value,
)
from wavlm_lightning.metrics.verification import equal_error_rate, minimum_detection_cost

APART = 2.0  # means of the scores of one speaker and of two, in deviations of a trial
SPEAKERS, TRIALS = 40, 400


def trials(rng: np.random.Generator, spread: float = 0.0, systems: int = 1):
    """Scores of trials of 40 voices, of which some are hard for every system: each voice moves its trials by `spread`."""
    same = np.arange(TRIALS) < 150
    sides = rng.integers(0, SPEAKERS, (TRIALS, 2))
    sides[same, 1] = sides[same, 0]
    other = ~same & (sides[:, 0] == sides[:, 1])
    sides[other, 1] = (sides[other, 1] + 1) % SPEAKERS
    scores = []
    for _ in range(systems):
        own, with_others = rng.normal(0, spread * 2**0.5, SPEAKERS), rng.normal(0, spread, SPEAKERS)
        moved = np.where(same, APART + own[sides[:, 0]], with_others[sides].sum(1))
        scores.append(moved + rng.normal(size=TRIALS))
    return scores, same, [(a, b) for a, b in sides.tolist()]


def truth(spread: float) -> float:
    return NormalDist().cdf(-APART / (2 * (1 + 2 * spread**2) ** 0.5))


def test_the_measures_are_those_of_the_whole_set():
    rng = np.random.default_rng(0)
    for _ in range(30):
        same = rng.random(200) < 0.3
        scores = np.round(rng.normal(size=200) + same, 1)  # with ties
        assert trial_measures([scores], same, resamples=1)[0][0] == pytest.approx(equal_error_rate(scores, same)[0])
        for prior in (0.01, 0.5):
            found = trial_measures([scores], same, measure=least_cost(prior), resamples=1)[0][0]
            assert found == pytest.approx(minimum_detection_cost(scores, same, prior)[0])


def test_a_resample_is_the_measure_of_the_drawn_trials():
    """A trial drawn twice counts as two trials."""
    rng = np.random.default_rng(1)
    same, scores, drawn = rng.random(60) < 0.4, rng.normal(size=60), rng.integers(0, 60, (20, 60))
    counts = np.stack([np.bincount(row, minlength=60) for row in drawn])
    found = equal_error(*_Curve(scores, same).rates(counts.astype(float)))
    wanted = [equal_error_rate(scores[row], same[row])[0] for row in drawn]
    assert found == pytest.approx(wanted)


def test_intervals_hold_the_true_rate_as_often_as_they_say():
    rng = np.random.default_rng(2)
    held = 0
    for trial in range(300):
        (scores,), same, _ = trials(rng)
        found = trial_interval(scores, same, resamples=200, seed=trial)
        held += found.low <= truth(0) <= found.high
    assert 0.91 <= held / 300 <= 0.985


@pytest.mark.slow
def test_trials_that_share_speakers_need_resampling_by_speaker():
    rng = np.random.default_rng(3)
    held = {"trials": 0, "speakers": 0}
    for trial in range(200):
        (scores,), same, sides = trials(rng, spread=0.7)
        for name, speakers in (("trials", None), ("speakers", sides)):
            found = trial_interval(scores, same, speakers, resamples=200, seed=trial)
            held[name] += found.low <= truth(0.7) <= found.high
    assert held["speakers"] / 200 > 0.9 and held["trials"] / 200 < 0.7


@pytest.mark.parametrize(("spread", "by_speaker"), [(0.0, False), (0.5, True)])
@pytest.mark.slow
def test_two_systems_of_equal_truth_are_significant_in_at_most_seven_per_cent(spread, by_speaker):
    rng = np.random.default_rng(4)
    significant = 0
    for trial in range(500):
        scores, same, sides = trials(rng, spread, systems=2)
        measured = trial_measures(scores, same, sides if by_speaker else None, resamples=100, seed=trial)
        significant += trial_p_value(*measured) < 0.05
    assert 0.01 <= significant / 500 <= 0.07


def test_a_better_system_is_found_whatever_the_scale_of_its_scores():
    (one,), same, sides = trials(np.random.default_rng(5), 0.2)
    noise = np.random.default_rng(6).normal(size=TRIALS)
    whole, drawn = trial_measures([one, 100 * (one + 2 * noise)], same, sides)
    assert whole[0] < whole[1] and trial_p_value(whole, drawn) < 0.01
    assert trial_p_value(*trial_measures([one, 100 * one], same, sides)) == 1.0


def test_trials_of_one_kind_are_refused():
    with pytest.raises(ValueError, match="both kinds"):
        trial_interval([0.1, 0.2], [True, True])
