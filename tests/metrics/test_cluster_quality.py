"""Cluster quality against scikit-learn and hand-made cases."""

import numpy as np
import pytest
from sklearn.metrics import mutual_info_score

from wavlm_lightning.metrics import cluster_quality


def entropy(labels):
    return mutual_info_score(labels, labels)


@pytest.mark.parametrize("seed", range(5))
def test_against_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    phones = rng.integers(0, 30, 2000)
    clusters = np.where(rng.random(2000) < 0.6, phones * 3 % 50, rng.integers(0, 50, 2000))
    quality = cluster_quality(phones, clusters)
    assert quality.pnmi == pytest.approx(mutual_info_score(phones, clusters) / entropy(phones))
    assert quality.perplexity == pytest.approx(np.exp(entropy(clusters)))


def test_by_hand():
    quality = cluster_quality(np.array([0, 0, 0, 1]), np.array([7, 7, 9, 9]))
    assert quality.phone_purity == 0.75  # cluster 7 is all phone 0, cluster 9 half and half
    assert quality.cluster_purity == 0.75
    assert quality.unigram == 0.5


def test_perfect_and_useless():
    phones = np.repeat(np.arange(4), 10)
    assert cluster_quality(phones, phones + 3).pnmi == pytest.approx(1.0)
    assert cluster_quality(phones, np.tile(np.arange(10), 4)).pnmi == pytest.approx(0.0, abs=1e-12)


def test_lengths_must_match():
    with pytest.raises(ValueError, match="as many phones as clusters"):
        cluster_quality(np.zeros(3), np.zeros(4))
