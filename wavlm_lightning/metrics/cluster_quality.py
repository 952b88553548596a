"""Agreement of frame labels (clusters) with phones: purity, PNMI, perplexity."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ClusterQuality:
    """Agreement of clusters with phones, all fractions (HuBERT, arXiv 2106.07447, section V-A).

    Attributes:
        phone_purity: share of frames whose phone is the most frequent phone of their cluster.
        cluster_purity: share of frames whose cluster is the most frequent cluster of their phone.
        pnmi: mutual information of phones and clusters over the entropy of phones.
        unigram: share of the most frequent cluster, the accuracy of always predicting it.
        perplexity: exp of the entropy of the clusters, the effective number of clusters in use.
    """

    phone_purity: float
    cluster_purity: float
    pnmi: float
    unigram: float
    perplexity: float


def cluster_quality(phones: np.ndarray, clusters: np.ndarray) -> ClusterQuality:
    """Compare two labellings of the same frames.

    Args:
        phones: integer `(frames,)`.
        clusters: integer `(frames,)`.

    Raises:
        ValueError: the labellings differ in length or are empty.

    Example:
        >>> cluster_quality(np.array([0, 0, 1, 1]), np.array([5, 5, 7, 7])).pnmi
        1.0
    """
    if len(phones) != len(clusters) or len(phones) == 0:
        raise ValueError(f"cluster_quality needs as many phones as clusters, got {len(phones)} and {len(clusters)}")
    _, phone = np.unique(phones, return_inverse=True)
    _, cluster = np.unique(clusters, return_inverse=True)
    counts = np.zeros((phone.max() + 1, cluster.max() + 1))
    np.add.at(counts, (phone, cluster), 1)
    joint = counts / counts.sum()
    by_phone, by_cluster = joint.sum(1), joint.sum(0)
    seen = joint > 0
    information = float((joint[seen] * np.log(joint[seen] / np.outer(by_phone, by_cluster)[seen])).sum())
    entropy = -float((by_phone * np.log(by_phone)).sum())
    return ClusterQuality(
        phone_purity=float(joint.max(0).sum()),
        cluster_purity=float(joint.max(1).sum()),
        pnmi=information / entropy if entropy > 0 else 1.0,
        unigram=float(by_cluster.max()),
        perplexity=float(np.exp(-(by_cluster * np.log(by_cluster)).sum())),
    )
