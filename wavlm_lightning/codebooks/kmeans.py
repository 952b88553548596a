"""Fit k-means on features of a corpus within a memory budget."""

from __future__ import annotations

import shutil
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from wavlm_lightning.codebooks.budget import default_budget_gib
from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.extraction import HeldFeatures, UtteranceSample
from wavlm_lightning.codebooks.features import FeatureSource
from wavlm_lightning.codebooks.job_shards import JobShard
from wavlm_lightning.codebooks.projection import Projection, fit_map, statistics_sample
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.progress import timed

LARGEST = 2**16  # labels are uint16


def extract_part(
    corpus: Corpus,
    source: FeatureSource,
    part: JobShard,
    keep: Path,
    split: str = "train",
    share: float = 1.0,
    memory_gib: float | None = None,
    seed: int = 0,
    jobs: int | None = 1,
    projection: Projection | None = None,
) -> int:
    """Extract and keep a part of the features that `fit_kmeans` needs, and return its number of groups of utterances.

    So several machines share the work. All arguments but `part` must be those of the later `fit_kmeans`; so must
    `memory_gib`, because it limits the number of utterances.
    """
    draw = draw_sample(corpus, source, split, share, memory_gib, seed, None if projection is None else projection.dim)
    return _mapped(draw, projection, memory_gib, seed, jobs, keep).extract(part, keep, jobs)


def fit_kmeans(
    corpus: Corpus,
    source: FeatureSource,
    size: int,
    split: str = "train",
    share: float = 1.0,
    memory_gib: float | None = None,
    seed: int = 0,
    restarts: int = 20,
    jobs: int | None = 1,
    keep: Path | None = None,
    projection: Projection | None = None,
) -> Codebook:
    """Mini-batch k-means with the settings of HuBERT's released scripts.

    Utterances are drawn at random until the share is reached or their features fill the memory budget. The draw, and
    therefore the codebook, does not depend on the number of processes.

    Source: fairseq `simple_kmeans/learn_kmeans.py` for the settings, scikit-learn for the algorithm; HuBERT (arXiv
    2106.07447) for the shares: all utterances for MFCC, 10 % of 960 hours for layers.

    Args:
        corpus: the audio.
        source: of the features to cluster.
        size: number of clusters.
        split: which split to fit on.
        share: of the utterances to draw, above 0 and up to 1, rounded up to whole utterances.
        memory_gib: for the features of all processes together, GiB; None takes a quarter of the machine's memory.
        seed: for the draw and for k-means.
        restarts: k-means++ initialisations, of which the best is kept.
        jobs: processes that extract features; None chooses by amount of audio and machine.
        keep: folder that keeps features until the fit is done, so that an interrupted fit continues; None keeps nothing.
        projection: a PCA to fit first, on `STATISTICS_FRAMES` of the frames; k-means sees what it puts out. None clusters the
            features as they are.

    Raises:
        UserError: the share is not above 0 and at most 1, a label would not fit into 16 bits, or there are fewer frames than
            clusters.
    """
    return fit_and_hold(corpus, source, size, split, share, memory_gib, seed, restarts, jobs, keep, projection)[0]


def check_clusters(size: int) -> None:
    """Raise a `UserError` if the number of clusters is below 1, or too large for labels of 16 bits."""
    if not 1 <= size <= LARGEST:
        raise UserError(f"--clusters {size}: labels are numbers of 16 bits; give 1 to {LARGEST}")


def fit_and_hold(
    corpus: Corpus,
    source: FeatureSource,
    size: int,
    split: str = "train",
    share: float = 1.0,
    memory_gib: float | None = None,
    seed: int = 0,
    restarts: int = 20,
    jobs: int | None = 1,
    keep: Path | None = None,
    projection: Projection | None = None,
) -> tuple[Codebook, HeldFeatures]:
    """`fit_kmeans`, and the features that it saw, which `label_corpus` need not compute again."""
    check_clusters(size)
    draw = draw_sample(corpus, source, split, share, memory_gib, seed, None if projection is None else projection.dim)
    if (total := int(draw.frames.sum())) < size:
        raise UserError(
            f"{corpus.directory}: {total} frames of split {split!r} cannot make {size} clusters; "
            "use more audio, a larger --share or --memory, or fewer clusters"
        )
    draw = _mapped(draw, projection, memory_gib, seed, jobs, keep)
    rows = draw.features(jobs, keep)
    centroids = cluster(rows, size, restarts, seed)
    fitted = described_fit(draw, share, seed)
    return Codebook(centroids, source.rate, source.describe(), fitted, map=draw.map), HeldFeatures(draw, rows)


def cluster(frames: np.ndarray, size: int, restarts: int, seed: int, what: str = "") -> np.ndarray:
    """Centroids float32 `(size, dim)` of frames `(frames, dim)`, by mini-batch k-means with HuBERT's settings."""
    from sklearn.cluster import MiniBatchKMeans

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
    with timed(f"k-means of {size} clusters on {len(frames)} frames{what}"), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*KMeans is known to have a memory leak.*")
        model.fit(frames)
    return model.cluster_centers_.astype(np.float32)


def described_fit(draw: UtteranceSample, share: float, seed: int) -> dict[str, Any]:
    """The entry `fitted` of a codebook: the corpus and the utterances whose frames it was fitted on."""
    return {
        "corpus": draw.corpus.name,
        "corpus_sha256": draw.corpus.sha256,
        "split": draw.split.name,
        "share": share,
        "utterances": len(draw.numbers),
        "wanted_utterances": draw.wanted,
        "of_utterances": len(draw.split),
        "frames": int(draw.frames.sum()),
        "seed": seed,
    }


def remove_features(keep: Path) -> None:
    """Delete kept features, once the codebook is written."""
    shutil.rmtree(keep, ignore_errors=True)


def draw_sample(
    corpus: Corpus,
    source: FeatureSource,
    split: str,
    share: float,
    memory_gib: float | None,
    seed: int,
    dim: int | None = None,
) -> UtteranceSample:
    """The utterances of a fit, see `UtteranceSample.make`; a UserError says if the share is impossible."""
    if not 0 < share <= 1:
        raise UserError(f"the share of utterances that k-means sees must be above 0 and at most 1, not {share:g}")
    memory_gib = default_budget_gib() if memory_gib is None else memory_gib
    return UtteranceSample.make(corpus, source, split, share, memory_gib, seed, dim)


def _mapped(
    draw: UtteranceSample,
    projection: Projection | None,
    memory_gib: float | None,
    seed: int,
    jobs: int | None,
    keep: Path | None,
) -> UtteranceSample:
    """The draw with its map, which is fitted to the first of its utterances."""
    if projection is None:
        return draw
    return replace(draw, map=fit_map(projection, statistics_sample(draw, memory_gib), seed, jobs, keep))
