"""Score normalisation and calibration against plain computations."""

from __future__ import annotations

import numpy as np
import pytest

from wavlm_lightning.metrics.calibration import (
    INPUTS,
    Cohort,
    adaptive_norm,
    cllr,
    cohort_statistics,
    fit_calibration,
    quality_inputs,
)


def test_adaptive_norm_a_trial_at_a_time():
    rng = np.random.default_rng(0)
    rows, cohort = rng.normal(size=(20, 6)), rng.normal(size=(50, 6))
    trials = rng.integers(0, 20, (30, 2))
    scores = rng.normal(size=30)
    found = cohort_statistics(rows, cohort, top=10)
    sides = [Cohort(found.mean[trials[:, side]], found.deviation[trials[:, side]]) for side in (0, 1)]
    normed = adaptive_norm(scores, *sides)
    for number, trial in enumerate(trials):
        wanted = []
        for utterance in trial:
            cosines = [
                rows[utterance] @ voice / np.sqrt(rows[utterance] @ rows[utterance]) / np.sqrt(voice @ voice)
                for voice in cohort
            ]
            nearest = sorted(cosines)[-10:]
            wanted.append((scores[number] - np.mean(nearest)) / np.std(nearest))
        assert normed[number] == pytest.approx(np.mean(wanted), abs=1e-9)


def test_a_small_cohort_counts_as_a_whole_and_a_useless_one_is_refused():
    rows = np.eye(3)
    assert cohort_statistics(rows, np.eye(3)[:2], top=300).mean == pytest.approx([0.5, 0.5, 0.0])
    with pytest.raises(ValueError, match="at least two voices"):
        cohort_statistics(rows, rows[:1])
    flat = cohort_statistics(rows, np.eye(3)[:2])
    with pytest.raises(ValueError, match="equally near"):
        adaptive_norm([0.5], Cohort(flat.mean[2:], flat.deviation[2:]), Cohort(flat.mean[2:], flat.deviation[2:]))
    with pytest.raises(ValueError, match="finite"):
        cohort_statistics([[np.nan, 1.0]], rows)


def test_the_inputs_of_a_trial():
    row = quality_inputs([0.7], [[3.0, 30.0]], [[2.0, 1.0]], [[0.1, 0.2]])[0]
    assert len(INPUTS) == 13
    assert dict(zip(INPUTS, row, strict=True)) == pytest.approx(
        {
            **{
                "score": 0.7,
                "duration.min": 3,
                "duration.max": 20,
                "duration.difference": 17,
                "duration.ratio": 20 / 3,
            },
            **{"norm.min": 1, "norm.max": 2, "norm.difference": 1, "norm.ratio": 2},
            **{"cohort.min": 0.1, "cohort.max": 0.2, "cohort.difference": 0.1, "cohort.ratio": 2},
        }
    )


def test_cllr_by_its_definition():
    ratios, same = np.array([2.0, -1.0, 0.5, -3.0]), np.array([1, 1, 0, 0])
    targets = np.mean([np.log2(1 + np.exp(-2.0)), np.log2(1 + np.exp(1.0))])
    others = np.mean([np.log2(1 + np.exp(0.5)), np.log2(1 + np.exp(-3.0))])
    assert cllr(ratios, same) == pytest.approx((targets + others) / 2)
    assert cllr(np.zeros(4), same) == pytest.approx(1.0)


def test_calibration_finds_ratios_that_are_known():
    """Scores of two Gaussians: the log-likelihood ratio is linear, and nothing has a lower Cllr."""
    rng = np.random.default_rng(1)
    same = np.repeat([1, 0], [2000, 18000])  # unequal shares must not shift the ratio
    scores = np.where(same, 0.6, 0.1) + 0.2 * rng.normal(size=len(same))
    inputs = np.stack([scores, rng.normal(size=len(same))], axis=1)
    fitted = fit_calibration(inputs, same)
    truth = (scores - 0.35) * (0.6 - 0.1) / 0.2**2
    assert fitted.weights == pytest.approx([12.5, 0.0], abs=0.6)
    assert fitted.bias == pytest.approx(-0.35 * 12.5, abs=0.3)
    assert cllr(fitted(inputs), same) <= cllr(truth, same) + 1e-4
    with pytest.raises(ValueError, match="one speaker and of two"):
        fit_calibration(inputs, np.ones(len(same)))


def test_a_quality_that_shifts_scores_is_taken_into_account():
    rng = np.random.default_rng(2)
    same, duration = rng.integers(0, 2, 4000), rng.uniform(1, 10, (4000, 2))
    scores = same + 0.3 * duration.min(1) + 0.3 * rng.normal(size=4000)
    constant = np.ones((4000, 2))
    inputs = quality_inputs(scores, duration, constant, constant)
    plain, informed = fit_calibration(inputs[:, :1], same), fit_calibration(inputs, same)
    assert cllr(informed(inputs), same) < 0.5 * cllr(plain(inputs[:, :1]), same)
