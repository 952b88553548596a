"""Codebooks on disk: fit k-means to a corpus, label a corpus with it, score labels against phone alignments.

The Python side of `wavlm codebook fit`, `apply` and `score`; the parts are in `wavlm_lightning.codebooks`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from wavlm_lightning.codebooks import Codebook, FeatureSource, LayerFeatures, MfccFeatures, fit_kmeans, label_corpus
from wavlm_lightning.codebooks.job_shards import JobShard
from wavlm_lightning.codebooks.kmeans import extract_part, remove_features
from wavlm_lightning.codebooks.quality import label_quality
from wavlm_lightning.codebooks.usage import LabelUsage, label_usage, write_usage
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, labels_seen
from wavlm_lightning.metrics import ClusterQuality
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.system.files import check_output, own_folder
from wavlm_lightning.upstreams.run_checkpoints import newest_checkpoint


def fit_codebook(
    corpus: Path | str,
    out: Path,
    clusters: int = 500,
    *,
    encoder: str | None = None,
    layer: int | None = None,
    precision: str = "fp32",
    level_normalised: bool = False,
    restarts: int = 20,
    part: str | None = None,
    **sample: Any,
) -> Codebook | int:
    """Cluster the frames of a corpus with k-means and save the codebook.

    Args:
        corpus: folder or URL of the corpus.
        out: folder of the codebook.
        clusters: number of labels (HuBERT: 100 for MFCC, 500 for layers).
        encoder: checkpoint of an encoder, see `LayerFeatures`; None clusters MFCC.
        layer: of the encoder.
        precision: of the encoder, `fp32` or `bf16`.
        level_normalised: see `MfccFeatures`.
        restarts: initialisations of k-means.
        part: `I/N` or `auto`: only extract the features of a part, for a later call without it.
        sample: `split`, `share`, `memory_gib`, `seed` and `jobs` of `fit_kmeans`.

    Returns:
        The codebook; with `part` the number of groups of utterances whose features are in `out / "features"`.

    Raises:
        UserError: arguments do not fit together, the corpus or encoder cannot be used, or another process writes `out`.
    """
    check_output(out)
    if (encoder is None) != (layer is None):
        raise UserError("--encoder and --layer go together; give both or neither (MFCC)")
    if part and sample.get("memory_gib") is None:
        raise UserError("--part needs --memory GIB, the same for all parts: it decides which utterances are drawn")
    if precision != "fp32" and not encoder:
        raise UserError("--precision is for layers of an --encoder; leave it out for MFCC")
    source: FeatureSource = MfccFeatures(level_normalised)
    if encoder is not None and layer is not None:
        source = LayerFeatures(encoder, layer, precision=precision)
    opened, keep = Corpus.open(corpus), out / "features"
    shard = JobShard.parse(part) if part else JobShard()
    with own_folder(out, "codebook fit", part=(shard.number, shard.of)):
        if part:
            return extract_part(opened, source, shard, keep, **sample)
        codebook = fit_kmeans(opened, source, clusters, restarts=restarts, keep=keep, **sample)
        if encoder is not None and (seen := labels_seen(newest_checkpoint(Path(encoder)))):
            codebook.fitted.setdefault(LABELLED, seen)
        codebook.save(out)
        remove_features(keep)
    return codebook


class Labelled(NamedTuple):
    """The result of `apply_codebook`."""

    folder: Path  # of the labels
    shards: int  # number of shards labelled now; the others had labels of this codebook before
    part: JobShard  # which shards were considered
    quality: dict[str, ClusterQuality]  # by split with phone alignments; empty if only a part was labelled
    usage: LabelUsage  # of all labels that are there; also in `usage.json` of the folder


def apply_codebook(
    codebook: Path,
    corpus: Path | str,
    name: str,
    splits: list[str] | None = None,
    jobs: int | None = None,
    part: str = "1/1",
) -> Labelled:
    """Label every shard of a corpus, count the clusters in use, and score the labels if it has phone alignments.

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
    if shard.of == 1:  # otherwise the labels of other parts may be missing
        found = {split: label_quality(opened, name, split) for split in splits or opened.splits}
        quality = {split: each for split, each in found.items() if each is not None}
    folder, usage = opened.directory / "labels" / name, label_usage(opened, name)
    write_usage(usage, folder)
    return Labelled(folder, shards, shard, quality, usage)


def score_codebook(corpus: Path | str, name: str, split: str = "train") -> ClusterQuality | None:
    """Purity and PNMI of a label set against the phone alignments of a split; None if it has no alignments."""
    return label_quality(Corpus.open(corpus), name, split)
