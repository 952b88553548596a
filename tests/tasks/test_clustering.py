"""Clustering of local speakers: against scikit-learn, counts known and unknown, and the constraint within a window."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics.pairwise import cosine_distances

from wavlm_lightning.tasks.components.clustering import MOST, Clusters, assign, centroids, dendrogram, thinned


def voices(rng: np.random.Generator, speakers: int, each: int, spread: float = 0.1) -> np.ndarray:
    """Embeddings of length 1 around one axis for each speaker, `(speakers * each, 8)`, speaker after speaker."""
    found = np.repeat(np.eye(8)[:speakers], each, 0) + spread * rng.standard_normal((speakers * each, 8))
    return found / np.linalg.norm(found, axis=1, keepdims=True)


def own_windows(vectors: np.ndarray) -> np.ndarray:
    return np.arange(len(vectors))


@pytest.mark.parametrize("threshold", [0.05, 0.4, 0.9, 1.9])
def test_clusters_are_scikit_learns(threshold):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((40, 5))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    theirs = AgglomerativeClustering(None, metric="precomputed", linkage="average", distance_threshold=threshold)
    labels = theirs.fit_predict(cosine_distances(vectors))
    expected = np.stack([vectors[labels == label].mean(0) for label in range(labels.max() + 1)])
    found = centroids(vectors, dendrogram(vectors, own_windows(vectors)), Clusters(threshold, 1))
    assert sorted(map(tuple, found.round(9))) == sorted(map(tuple, expected.round(9)))


@pytest.mark.parametrize("speakers", [1, 2, 4])
def test_the_number_of_speakers_is_found_or_given(speakers):
    vectors = voices(np.random.default_rng(speakers), speakers, 12)
    tree = dendrogram(vectors, own_windows(vectors))
    assert len(centroids(vectors, tree, Clusters(0.5, 3))) == speakers
    for count in (1, 2, 3, 5):  # also against the threshold
        assert len(centroids(vectors, tree, Clusters(0.5, 3), (count, count))) == count
    assert len(centroids(vectors, tree, Clusters(0.5, 3), (2, 3))) == min(max(speakers, 2), 3)


def test_a_cluster_of_few_members_is_nobody_unless_the_recording_is_short():
    rng = np.random.default_rng(1)
    vectors = np.concatenate([voices(rng, 1, 60), voices(rng, 2, 3)[3:]])
    tree = dendrogram(vectors, own_windows(vectors))
    assert len(centroids(vectors, tree, Clusters(0.5, 1))) == 2
    assert len(centroids(vectors, tree, Clusters(0.5, 5))) == 1
    few = np.concatenate([vectors[:8], vectors[-3:]])  # a tenth of eleven is one
    assert len(centroids(few, dendrogram(few, own_windows(few)), Clusters(0.5, 5))) == 2


def test_one_embedding_and_equal_embeddings():
    one = voices(np.random.default_rng(0), 1, 1)
    assert centroids(one, dendrogram(one, own_windows(one)), Clusters(0.5, 3)) == pytest.approx(one)
    assert len(centroids(one, dendrogram(one, own_windows(one)), Clusters(0.5, 3), (2, 2))) == 1  # there is no more
    ties = np.repeat(one, 6, 0)
    assert centroids(ties, dendrogram(ties, own_windows(ties)), Clusters(0.5, 3)) == pytest.approx(one)


def test_two_speakers_of_a_window_are_apart_however_alike():
    rng = np.random.default_rng(2)
    alike = voices(rng, 1, 20, 0.01)
    together = np.repeat(np.arange(10), 2)
    assert len(centroids(alike, dendrogram(alike, own_windows(alike)), Clusters(1.0, 1))) == 1
    assert dendrogram(alike[:2], together[:2])[0, 2] == 2.0
    clusters = assign(alike.reshape(10, 2, 8), np.ones((10, 2), dtype=bool), np.eye(8)[:2])
    assert (clusters[:, 0] != clusters[:, 1]).all() and (clusters >= 0).all()


def test_the_assignment_is_the_best_of_all():
    rng = np.random.default_rng(3)
    vectors = rng.standard_normal((30, 3, 8))
    means = rng.standard_normal((4, 8))
    active = rng.random((30, 3)) < 0.7
    clusters = assign(vectors, active, means)
    cosines = vectors @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T
    for window in range(30):
        there = np.flatnonzero(active[window])
        assert (clusters[window] >= 0).tolist() == active[window].tolist()
        best = max(sum(cosines[window, there, list(order)]) for order in permutations(range(4), len(there)))
        assert cosines[window, there, clusters[window, there]].sum() == pytest.approx(best)
    fewer = assign(vectors, active, means[:1])  # one cluster takes one speaker of a window
    assert ((fewer >= 0).sum(1) == active.any(1)).all()


def test_long_recordings_are_thinned_out():
    assert thinned(5).tolist() == [0, 1, 2, 3, 4]
    many = thinned(10 * MOST)
    assert len(np.unique(many)) == MOST and many[0] == 0 and many[-1] == 10 * MOST - 1
