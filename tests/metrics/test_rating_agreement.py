"""Agreement of ratings against plain definitions, with ties, and what constants give."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wavlm_lightning.metrics.rating_agreement import MEASURES, RatingAgreement, agreement, levels, system_means


def pearson(first: np.ndarray, second: np.ndarray) -> float:
    first, second = first - first.mean(), second - second.mean()
    return float(first @ second / np.sqrt((first @ first) * (second @ second)))


def ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks: the number below, and half of the others that are equal."""
    return (values[:, None] > values).sum(1) + ((values[:, None] == values).sum(1) - 1) / 2


def tau_b(first: np.ndarray, second: np.ndarray) -> float:
    """Kendall 1945: over all pairs, ties in the denominator of their own side."""
    one, two = (np.sign(each[:, None] - each)[np.triu_indices(len(each), 1)] for each in (first, second))
    return float((one * two).sum() / np.sqrt(np.abs(one).sum() * np.abs(two).sum()))


@pytest.mark.parametrize("step", [0.0, 0.25, 1.0])
def test_the_measures_are_those_of_the_definitions(step):
    rng = np.random.default_rng(int(100 * step))
    for size in (2, 3, 8, 60):
        rated = rng.uniform(1, 5, size)
        predicted = rated + rng.normal(0, 0.8, size)
        if step:  # ratings of few listeners are often equal, and so are coarse predictions
            rated, predicted = np.round(rated / step) * step, np.round(predicted / step) * step
        if np.ptp(rated) == 0 or np.ptp(predicted) == 0:
            continue
        wanted = {
            "mse": float(((predicted - rated) ** 2).mean()),
            "lcc": pearson(predicted, rated),
            "srcc": pearson(ranks(predicted), ranks(rated)),
            "ktau": tau_b(predicted, rated),
        }
        assert agreement(predicted, rated) == pytest.approx(wanted, abs=1e-12)


def test_a_constant_ranks_nothing():
    rated = np.array([1.0, 2.5, 4.0])
    rounding = np.float32(3.1) + np.array([0, 2e-7, -2e-7], np.float32)  # of a batch with other padding
    for predicted in (np.full(3, 3.1), rounding):
        found = agreement(predicted, rated)
        assert found["mse"] == pytest.approx(np.mean((predicted - rated) ** 2))
        assert [found[name] for name in MEASURES[1:]] == [0.0] * 3
    assert agreement(rated, np.full(3, 2.0))["srcc"] == 0.0
    assert agreement(np.array([2.0]), np.array([4.0])) == {"mse": 4.0, "lcc": 0.0, "srcc": 0.0, "ktau": 0.0}


def test_what_has_no_value_is_refused():
    for predicted in (np.array([np.nan, 1.0]), np.array([np.inf, 1.0])):
        with pytest.raises(ValueError, match="not finite"):
            agreement(predicted, np.array([1.0, 2.0]))
    with pytest.raises(ValueError, match="do not go together"):
        agreement(np.ones(2), np.ones(3))


def test_systems_are_compared_by_their_means():
    systems = np.array(["b", "a", "b", "a", "c"])
    assert system_means(np.array([1.0, 2.0, 3.0, 4.0, 5.0]), systems).tolist() == [3.0, 2.0, 5.0]
    predicted, rated = np.array([1.0, 5.0, 3.0, 1.0, 4.0]), np.array([2.0, 1.0, 2.0, 5.0, 4.0])
    found = levels(predicted, rated, systems)
    assert found["system_srcc"] == pytest.approx(pearson(np.array([1, 0, 2]), np.array([1, 0, 2])))
    assert found["system_mse"] == pytest.approx((0 + 0 + 0) / 3) and found["utterance_lcc"] < 0


def test_the_metric_joins_batches():
    rng = np.random.default_rng(0)
    predicted, rated = rng.uniform(1, 5, 12).astype(np.float32), rng.integers(1, 6, 12).astype(np.float32)
    systems = rng.integers(0, 2**62, 4)[np.arange(12) % 4]
    metric = RatingAgreement()
    for part in (slice(0, 5), slice(5, 12)):
        metric.update(*(torch.from_numpy(each[part]) for each in (predicted, rated, systems)))
    found = {name: float(value) for name, value in metric.compute().items()}
    assert found == pytest.approx(levels(predicted, rated, systems), rel=1e-6)
