"""Fitting k-means within a memory budget."""

from __future__ import annotations

import math
import warnings

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import FeatureSource
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.errors import UserError
from wavlm_lightning.progress import progress_bar


def fit_kmeans(
    corpus: Corpus,
    source: FeatureSource,
    size: int,
    split: str = "train",
    share: float = 1.0,
    memory_gib: float = 4.0,
    seed: int = 0,
    restarts: int = 20,
) -> Codebook:
    """Mini-batch k-means with the settings of HuBERT's released scripts.

    Utterances are drawn at random until the share is reached or their features fill the memory budget.

    Source: fairseq `simple_kmeans/learn_kmeans.py` for the settings, scikit-learn for the algorithm; HuBERT (arXiv
    2106.07447) for the shares: all utterances for MFCC, 10 % of 960 hours for layers.

    Args:
        corpus: where the audio comes from.
        source: the features to cluster.
        size: number of clusters.
        split: which split to fit on.
        share: of the utterances to draw, above 0 and up to 1, rounded up to whole utterances.
        memory_gib: peak memory for features, GiB.
        seed: for the draw and for k-means.
        restarts: k-means++ initialisations of which the best is kept.

    Raises:
        UserError: the share is none, or there are fewer frames than clusters.
    """
    from sklearn.cluster import MiniBatchKMeans

    if not 0 < share <= 1:
        raise UserError(f"the share of utterances that k-means sees must be above 0 and at most 1, not {share:g}")
    utterances = corpus.split(split)
    wanted = math.ceil(share * len(utterances) - 1e-9)  # 0.1 of 30 is 3, whatever binary fractions say
    order = np.random.default_rng(seed).permutation(len(utterances))[:wanted]
    parts: list[np.ndarray] = []
    # Half of the budget: putting the parts together needs them twice for a moment.
    used, budget = 0, memory_gib * 2**30 / 2
    seconds = utterances.samples[order].sum() / SAMPLE_RATE
    with progress_bar(total=round(seconds), unit="s audio", desc="features") as bar:
        for number in order:
            shard, place = utterances.locate(int(number))
            features = source(shard.waveform(place))
            if used + features.nbytes > budget and parts:
                break
            parts.append(features)
            used += features.nbytes
            bar.update(round(utterances.samples[number] / SAMPLE_RATE))
    frames = np.concatenate(parts)
    if len(frames) < size:
        raise UserError(
            f"{corpus.directory}: {len(frames)} frames of split {split!r} cannot make {size} clusters; "
            "use more audio, a larger --share or --memory, or fewer clusters"
        )
    model = MiniBatchKMeans(
        n_clusters=size,
        init="k-means++",
        max_iter=100,
        batch_size=10_000,
        tol=0.0,
        max_no_improvement=100,
        n_init=restarts,
        reassignment_ratio=0.0,
        compute_labels=False,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*KMeans is known to have a memory leak.*")
        model.fit(frames)
    fitted = {
        "corpus": corpus.name,
        "corpus_sha256": corpus.sha256,
        "split": split,
        "share": share,
        "utterances": len(parts),
        "wanted_utterances": wanted,
        "of_utterances": len(utterances),
        "frames": len(frames),
        "seed": seed,
    }
    return Codebook(model.cluster_centers_.astype(np.float32), source.rate, source.describe(), fitted)
