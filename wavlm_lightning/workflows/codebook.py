"""Codebooks on disk: fit k-means to a corpus, label a corpus with it, score labels against phone alignments.

The Python side of `wavlm codebook fit`, `apply` and `score`; the parts are in `wavlm_lightning.codebooks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from wavlm_lightning.codebooks import Codebook, FeatureSource, LayerFeatures, MfccFeatures, fit_kmeans, label_corpus
from wavlm_lightning.codebooks.job_shards import JobShard
from wavlm_lightning.codebooks.kmeans import extract_part, remove_features
from wavlm_lightning.codebooks.quality import label_quality
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics import ClusterQuality
from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class ExtractedPart:
    """What `fit_codebook` did when it was given a part.

    Attributes:
        folder: where the features are kept.
        groups: groups of utterances of this part whose features are there.
    """

    folder: Path
    groups: int


def fit_codebook(
    corpus: Path | str,
    out: Path,
    clusters: int = 500,
    *,
    encoder: str | None = None,
    layer: int | None = None,
    precision: Literal["fp32", "bf16"] = "fp32",
    level_normalised: bool = False,
    split: str = "train",
    share: float = 1.0,
    memory_gib: float | None = None,
    restarts: int = 20,
    seed: int = 0,
    jobs: int | None = None,
    part: str | None = None,
) -> Codebook | ExtractedPart:
    """Cluster the frames of a corpus with k-means and save the codebook.

    Args:
        corpus: folder or URL of the corpus.
        out: folder of the codebook.
        clusters: number of labels (HuBERT: 100 for MFCC, 500 for layers).
        encoder: checkpoint of an encoder; None clusters MFCC.
        layer: which layer of the encoder.
        precision: of the encoder.
        level_normalised: scale utterances to one level before MFCC.
        split: which split of the corpus.
        share: of its utterances that k-means sees, above 0 and up to 1.
        memory_gib: for the features; a quarter of the machine's memory by default.
        restarts: initialisations of k-means.
        seed: for drawing utterances and for k-means.
        jobs: processes; None chooses.
        part: `I/N` or `auto`: only extract the features of a part, for a later call without it.

    Returns:
        The codebook, or with `part` what was extracted.

    Raises:
        UserError: arguments do not fit together, or the corpus or encoder cannot be used.

    Example:
        >>> fit_codebook("data/mine", Path("runs/codebook"), clusters=100).size
        100
    """
    if (encoder is None) != (layer is None):
        raise UserError("--encoder and --layer go together; give both or neither (MFCC)")
    if part and memory_gib is None:
        raise UserError(
            "--part needs --memory GIB, the same value for all parts: it decides which utterances are drawn"
        )
    if precision != "fp32" and not encoder:
        raise UserError("--precision is for layers of an --encoder; leave it out for MFCC")
    source: FeatureSource
    if encoder is not None and layer is not None:
        source = LayerFeatures(encoder, layer, precision=precision)
    else:
        source = MfccFeatures(level_normalised)
    opened, keep = Corpus.open(corpus), out / "features"
    if part:
        shard = JobShard.parse(part)
        return ExtractedPart(keep, extract_part(opened, source, shard, keep, split, share, memory_gib, seed, jobs))
    codebook = fit_kmeans(opened, source, clusters, split, share, memory_gib, seed, restarts, jobs, keep)
    codebook.save(out)
    remove_features(keep)
    return codebook


@dataclass(frozen=True)
class Labelled:
    """What `apply_codebook` did.

    Attributes:
        folder: of the labels.
        shards: how many were labelled now; the others carried labels of this codebook before.
        part: which shards were considered.
        quality: of each split with phone alignments; empty if only a part was labelled.
    """

    folder: Path
    shards: int
    part: JobShard
    quality: dict[str, ClusterQuality]


def apply_codebook(
    codebook: Path,
    corpus: Path | str,
    name: str,
    splits: list[str] | None = None,
    jobs: int | None = None,
    part: str = "1/1",
) -> Labelled:
    """Label every shard of a corpus, and score the labels if it has phone alignments.

    Args:
        codebook: folder of the codebook.
        corpus: folder of the corpus.
        name: of the label set; the labels go to `CORPUS/labels/NAME`.
        splits: which splits; all by default.
        jobs: processes; None chooses.
        part: `I/N` or `auto`: only every N-th shard, from the I-th.

    Raises:
        UserError: see `wavlm_lightning.codebooks.label_corpus`.
    """
    opened, shard = Corpus.open(corpus), JobShard.parse(part)
    shards = label_corpus(opened, Codebook.load(codebook), name, splits, jobs, shard)
    quality = {}
    if shard.of == 1:  # otherwise the other parts may not be there yet
        for split in splits or opened.splits:
            if (found := label_quality(opened, name, split)) is not None:
                quality[split] = found
    return Labelled(opened.directory / "labels" / name, shards, shard, quality)


def score_codebook(corpus: Path | str, name: str, split: str = "train") -> ClusterQuality | None:
    """Purity and PNMI of labels against the phone alignments of a split; None if it has no alignments.

    Args:
        corpus: folder or URL of the corpus.
        name: of the label set.
        split: which split.
    """
    return label_quality(Corpus.open(corpus), name, split)
