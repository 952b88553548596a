"""Which local speakers of many windows are one person: clustering of their embeddings, and an assignment under constraints.

A window names its speakers anew. The embeddings of those who are heard well enough are clustered (average linkage of cosine
distances); clusters of few members are dropped, and every local speaker then goes to the nearest cluster, two of one window
never to the same one. This is the procedure of pyannote.audio 3 (Bredin, Interspeech 2023); the linkage differs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.cluster.hierarchy import cut_tree, fcluster, linkage
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import pdist
from sklearn.cluster import KMeans

APART = 2.0  # the largest cosine distance: that of two speakers of one window
MOST = 3000  # embeddings that are clustered; more are thinned out evenly, so that memory does not grow with the square
SMALL_SHARE = 0.1  # of the embeddings of a recording, which are enough for a cluster to be kept
FURTHER_CUTS = 50  # cuts with more clusters that are tried beyond the number of speakers asked for


class Clusters(NamedTuple):
    """How the embeddings of a recording become clusters.

    Attributes:
        threshold: mean cosine distance above which two clusters stay apart.
        smallest: members that a cluster needs to be kept; in short recordings a tenth of the embeddings is enough.
    """

    threshold: float
    smallest: int


def dendrogram(vectors: np.ndarray, windows: np.ndarray) -> np.ndarray:
    """SciPy's linkage matrix of embeddings; those of one window are as far apart as can be.

    Args:
        vectors: of length 1, `(embeddings, dim)`.
        windows: number of the window of each, int `(embeddings,)`.
    """
    if len(vectors) < 2:
        return np.empty((0, 4))
    distances = np.clip(pdist(np.asarray(vectors, dtype=np.float64), "cosine"), 0.0, APART)
    first, second = np.triu_indices(len(vectors), 1)
    distances[windows[first] == windows[second]] = APART
    return linkage(distances, "average")


def centroids(vectors: np.ndarray, tree: np.ndarray, how: Clusters, count: tuple[int, int] | None = None) -> np.ndarray:
    """The mean embeddings of the clusters that are not small, float64 `(clusters, dim)`, one at least.

    Args:
        vectors: of length 1, `(embeddings, dim)`, one at least.
        tree: their `dendrogram`.
        how: threshold and smallest size.
        count: least and largest number of speakers, where they are known. The cut with a number of clusters in this range is
            taken that is nearest to the cut at the threshold, in number and then in height; k-means, where none is in range.
    """
    number = len(vectors)
    smallest = max(1, min(how.smallest, round(SMALL_SHARE * number)))
    labels = _cut(tree, number, how.threshold)
    if count is not None and not count[0] <= _large(labels, smallest) <= count[1]:
        labels, smallest = _counted_cut(vectors, tree, how.threshold, smallest, count)
    sizes = np.bincount(labels)
    kept = np.flatnonzero(sizes >= min(smallest, sizes.max()))
    if count is not None:
        kept = np.sort(kept[np.argsort(-sizes[kept], kind="stable")][: count[1]])
    return np.stack([vectors[labels == label].mean(0) for label in kept])


def _cut(tree: np.ndarray, number: int, threshold: float) -> np.ndarray:
    """The cluster of each embedding, from 0, where no two clusters are nearer than the threshold."""
    if number < 2:
        return np.zeros(number, dtype=np.int64)
    return fcluster(tree, threshold, "distance").astype(np.int64) - 1


def _large(labels: np.ndarray, smallest: int) -> int:
    sizes = np.bincount(labels)
    return int((sizes >= min(smallest, sizes.max())).sum())


def _counted_cut(
    vectors: np.ndarray, tree: np.ndarray, threshold: float, smallest: int, count: tuple[int, int]
) -> tuple[np.ndarray, int]:
    """Labels, and the smallest size of a cluster, where the number of clusters that are not small is in the range `count`.

    They are of the cut nearest to the threshold, or of k-means where no cut has such a number.
    """
    number, alone = len(vectors), _large(_cut(tree, len(vectors), threshold), smallest)
    tried = list(range(1, min(number, count[1] + FURTHER_CUTS) + 1))
    # Not `fcluster`, which gives fewer clusters than asked for where merges are equally high.
    cuts = cut_tree(tree, tried).T.astype(np.int64) if number > 1 else np.zeros((1, 1), dtype=np.int64)
    found: list[tuple[int, float, np.ndarray]] = []
    for clusters, labels in zip(tried, cuts, strict=True):
        large = _large(labels, smallest)
        if count[0] <= large <= count[1]:
            height = tree[number - max(clusters, 2), 2] if number > 1 else 0.0  # of the merge that is not made
            found.append((abs(large - alone), abs(height - threshold), labels))
    if found:
        return min(found, key=lambda each: each[:2])[2], smallest
    wanted = min(number, max(count[0], min(count[1], alone)))
    return KMeans(wanted, n_init=3, random_state=0).fit(vectors).labels_.astype(np.int64), 1


def assign(vectors: np.ndarray, active: np.ndarray, means: np.ndarray) -> np.ndarray:
    """The cluster of each local speaker, int64 `(windows, speakers)`; -1 for those who do not speak or find no cluster left.

    In each window the sum of cosines is the largest of all assignments that give no cluster to two.

    Args:
        vectors: of length 1, `(windows, speakers, dim)`.
        active: who speaks in a window, bool `(windows, speakers)`.
        means: of the clusters, `(clusters, dim)`.
    """
    unit = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
    cosines = vectors @ unit.T
    clusters = np.full(active.shape, -1, dtype=np.int64)
    for window, there in enumerate(active):
        speakers = np.flatnonzero(there)
        rows, columns = linear_sum_assignment(cosines[window, speakers], maximize=True)
        clusters[window, speakers[rows]] = columns
    return clusters


def thinned(number: int, most: int = MOST) -> np.ndarray:
    """Places of at most `most` of `number` things, evenly spread."""
    return np.arange(number) if number <= most else np.linspace(0, number - 1, most).round().astype(np.int64)
