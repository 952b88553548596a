"""Quality of frame labels (purity, PNMI) against the phone alignments of a corpus."""

from __future__ import annotations

import numpy as np

from wavlm_lightning.codebooks.labels import LabelSet
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics import ClusterQuality, cluster_quality


def label_quality(corpus: Corpus, name: str, split: str) -> ClusterQuality | None:
    """Compare the labels of a split with its phone alignments, frame by frame; None if no `phones` have times."""
    labels = LabelSet.open(corpus, name, split)
    names: dict[str, int] = {}
    phones, clusters = [], []
    for meta, row in zip(corpus.split(split).metas(), labels.rows, strict=True):
        if not meta.get("phones") or len(meta["phones"][0]) < 3:  # phones from a lexicon have no times
            continue
        # A label is compared with the phone in the middle of its 25 ms window.
        times = (np.arange(len(row)) / labels.rate) + 0.0125
        ends = np.array([end for _, _, end in meta["phones"]])
        ids = np.array([names.setdefault(phone, len(names)) for phone, _, _ in meta["phones"]])
        place = np.searchsorted(ends, times, side="right")
        inside = place < len(ends)
        phones.append(ids[place[inside]])
        clusters.append(row[inside])
    if not phones:
        return None
    return cluster_quality(np.concatenate(phones), np.concatenate(clusters))
