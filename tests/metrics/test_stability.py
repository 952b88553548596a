"""Agreement of codebooks and quality of clusters against scikit-learn."""

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import entropy
from sklearn.metrics import confusion_matrix, mutual_info_score, normalized_mutual_info_score
from sklearn.metrics.cluster import contingency_matrix

from wavlm_lightning.metrics import cluster_quality
from wavlm_lightning.metrics.stability import segment_lengths, stability


def labellings(seed):
    rng = np.random.default_rng(seed)
    phones = np.repeat(rng.integers(0, 12, 300), rng.integers(1, 9, 300))
    units = np.where(rng.random(len(phones)) < 0.6, phones * 7 % 19, rng.integers(0, 25, len(phones)))
    return phones, units.astype(np.uint16)


@pytest.mark.parametrize("seed", range(5))
def test_as_scikit_learn(seed):
    one, other = labellings(seed)
    found = stability(one, other)
    assert found.nmi == pytest.approx(normalized_mutual_info_score(one, other), abs=1e-9)
    table = confusion_matrix(one, other)
    assert found.agreement == pytest.approx(table[linear_sum_assignment(-table)].sum() / len(one), abs=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_purities_and_pnmi_as_scikit_learn(seed):
    phones, units = labellings(seed)
    found, table = cluster_quality(phones, units), contingency_matrix(phones, units)
    assert found.pnmi == pytest.approx(mutual_info_score(phones, units) / entropy(np.bincount(phones)), abs=1e-9)
    assert found.phone_purity == pytest.approx(table.max(0).sum() / len(phones), abs=1e-9)
    assert found.cluster_purity == pytest.approx(table.max(1).sum() / len(phones), abs=1e-9)


def test_a_codebook_with_other_numbers_is_the_same():
    _, units = labellings(0)
    assert stability(units, 100 - units.astype(int)) == stability(units, units)
    assert stability(units, units).nmi == pytest.approx(1)
    assert stability(units, units).agreement == 1
    assert stability(np.zeros(4, int), np.zeros(4, int)).nmi == 1
    assert stability(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])).nmi == pytest.approx(0)
    with pytest.raises(ValueError, match="same frames"):
        stability(units, units[1:])


def test_segment_lengths_by_hand():
    found = segment_lengths([np.array([5, 5, 5, 2], dtype=np.uint16), np.array([2, 2]), np.array([])], 50)
    assert (found.mean, found.median, found.segments) == (40, 40, 3)
    assert segment_lengths([np.array([1, 2, 3])], 100).mean == 10
    with pytest.raises(ValueError, match="one frame"):
        segment_lengths([], 50)
