"""Quantisers without k-means: random unit codes behind a random projection (BEST-RQ) or behind a PCA."""

from __future__ import annotations

import numpy as np

from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import FeatureSource
from wavlm_lightning.codebooks.kmeans import check_clusters, described_fit, draw_sample
from wavlm_lightning.codebooks.projection import Projection, fit_map, statistics_sample
from wavlm_lightning.data.corpus import Corpus


def fit_random_codes(
    corpus: Corpus,
    source: FeatureSource,
    size: int,
    projection: Projection,
    split: str = "train",
    share: float = 1.0,
    memory_gib: float | None = None,
    seed: int = 0,
    jobs: int | None = 1,
) -> Codebook:
    """Codes drawn from the unit sphere, compared with projected features of unit norm; no codes are fitted.

    Only the map knows the corpus: mean and deviation of each feature for a random projection, mean and covariance for a PCA, of
    the first `STATISTICS_FRAMES` of the draw.

    Source: BEST-RQ (arXiv 2202.01855, section 3.1); the PCA in place of the random projection arXiv 2606.30671.

    Args:
        corpus: the audio.
        source: of the features.
        size: number of codes (published: 8192).
        projection: with `unit_norm`; 16 outputs are published.
        split: whose statistics the map has.
        share: of the utterances to draw from.
        memory_gib: for features, GiB; None takes a quarter of the machine's memory.
        seed: of the draw, the projection and the codes.
        jobs: processes that extract features; None chooses.

    Raises:
        UserError: the share or the number of outputs is impossible, or a label would not fit into 16 bits.
    """
    check_clusters(size)
    draw = statistics_sample(draw_sample(corpus, source, split, share, memory_gib, seed), memory_gib)
    through = fit_map(projection, draw, seed, jobs, keep=None)
    codes = np.random.default_rng([seed, 2]).normal(size=(size, through.dim))
    codes /= np.linalg.norm(codes, axis=1, keepdims=True)
    fitted = described_fit(draw, share, seed)
    return Codebook(codes.astype(np.float32), source.rate, source.describe(), fitted, projection.kind, through)
