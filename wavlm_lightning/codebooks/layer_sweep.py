"""Which layer of an encoder to cluster: k-means on every layer from one pass, PNMI of each on held-out speech, and a rule."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from wavlm_lightning.codebooks.codebook import Codebook
from wavlm_lightning.codebooks.features import LayerStack
from wavlm_lightning.codebooks.kmeans import check_clusters, cluster, described_fit, draw_sample
from wavlm_lightning.codebooks.quality import OWN, quality_of, timed_phones
from wavlm_lightning.codebooks.usage import LabelUsage
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics import ClusterQuality
from wavlm_lightning.system.errors import UserError

BY_PNMI = "highest PNMI"
BY_POSITION = "no phones with times: the first layer of the last third, as HuBERT's 9 of 12"


@dataclass(frozen=True)
class LayerScore:
    """One layer of a sweep.

    Attributes:
        layer: 0 is the input of the first layer, N the output of layer N.
        in_use: clusters with a label among the scored frames.
        perplexity: exp of the entropy of the clusters over the scored frames.
        quality: against phones; None if the utterances have none with times.
    """

    layer: int
    in_use: int
    perplexity: float
    quality: ClusterQuality | None


@dataclass(frozen=True)
class LayerSweep:
    """The scores of layers, and how they were found.

    Attributes:
        scores: in the order of the layers.
        layers: of the encoder; it has outputs 0 to `layers`.
        clusters: of each k-means.
        fitted: as in a codebook: the utterances that k-means saw.
        scored: split, utterances and frames of the scores, and the alignments.
        encoder_sha256: hash of the encoder's weights.
    """

    scores: list[LayerScore]
    layers: int
    clusters: int
    fitted: dict[str, Any]
    scored: dict[str, Any]
    encoder_sha256: str

    def chosen(self) -> tuple[int, str]:
        """The layer to cluster, and the rule that chose it."""
        known = [(score.quality.pnmi, score.layer) for score in self.scores if score.quality is not None]
        if known:
            return max(known, key=lambda pair: pair[0])[1], BY_PNMI
        return layer_by_position(self.layers), BY_POSITION

    def body(self) -> dict[str, Any]:
        """What `scores.json` holds."""
        layer, rule = self.chosen()
        rows = []
        for score in self.scores:
            row: dict[str, Any] = {"layer": score.layer, "in_use": score.in_use, "perplexity": score.perplexity}
            rows.append(row if score.quality is None else row | asdict(score.quality))
        body = {"chosen": {"layer": layer, "rule": rule}, "clusters": self.clusters, "layers": rows}
        return body | {"scored": self.scored, "fitted": self.fitted, "encoder_sha256": self.encoder_sha256}


def last_third(layers: int) -> list[int]:
    """The outputs of the last third of an encoder: 9 to 12 of 12 layers.

    Example:
        >>> last_third(12)
        [9, 10, 11, 12]
    """
    return [layer for layer in range(layers + 1) if 3 * layer > 2 * layers]


def layer_by_position(layers: int) -> int:
    """The layer to cluster where nothing can be measured: the first of the last third (HuBERT Large's teacher: 9 of 12)."""
    return last_third(layers)[0] if layers else 0


def sweep_layers(
    corpus: Corpus,
    source: LayerStack,
    clusters: int,
    split: str,
    fit_split: str = "train",
    alignments: str = OWN,
    share: float = 1.0,
    memory_gib: float | None = None,
    seed: int = 0,
    restarts: int = 5,
    jobs: int | None = 1,
) -> LayerSweep:
    """Cluster each layer of a stack, and compare its clusters with phones on another split.

    One pass of the encoder gives all layers, which are held in memory: the utterances drawn are as many as fit.

    Args:
        corpus: audio, and phones with times if there are some.
        source: the layers.
        clusters: of each layer.
        split: to score.
        fit_split: that k-means sees.
        alignments: name of the set of alignments; `corpus` for the times in the metadata.
        share: of the utterances of `fit_split` to draw, above 0 and up to 1.
        memory_gib: for the features of all layers, GiB; None takes a quarter of the machine's memory.
        seed: of draw and k-means.
        restarts: initialisations of k-means.
        jobs: processes that extract features; None chooses.

    Raises:
        UserError: the share or the number of clusters is impossible, there are fewer frames than clusters, or no such
            alignments.
    """
    check_clusters(clusters)
    phones = list(timed_phones(corpus, split, alignments))  # first: a missing set is said before hours of features
    draw = draw_sample(corpus, source, fit_split, share, memory_gib, seed)
    if (total := int(draw.frames.sum())) < clusters:
        raise UserError(
            f"{corpus.directory}: {total} frames of split {fit_split!r} cannot make {clusters} clusters; use more audio, a "
            "larger --share or --memory, fewer --layers, or fewer clusters"
        )
    features = draw.features(jobs)
    described, books = source.describe(), {}
    for layer in source.layers:
        found = cluster(
            np.ascontiguousarray(features[:, source.columns(layer)]), clusters, restarts, seed, f" of layer {layer}"
        )
        books[layer] = Codebook(found, source.rate, described, {})
    del features
    held_out = draw_sample(corpus, source, split, 1.0, memory_gib, seed)
    features, ends = held_out.features(jobs), np.cumsum(held_out.frames)[:-1]
    timed, scores = [phones[number] for number in held_out.numbers], []
    for layer, book in books.items():
        labels = book.assign(features[:, source.columns(layer)])
        usage = LabelUsage.of(np.bincount(labels, minlength=clusters), 1, 1)
        quality = quality_of(zip(timed, np.split(labels, ends), strict=True), source.rate)
        scores.append(LayerScore(layer, usage.in_use, usage.perplexity, quality))
    scored = {"split": split, "utterances": len(held_out.numbers), "frames": len(features), "alignments": alignments}
    if not any(timed):
        scored["alignments"] = None
    layers, fitted = source.encoder.config.layers, described_fit(draw, share, seed)
    if source.mean_removed:
        fitted["mean_removed"] = True
    return LayerSweep(scores, layers, clusters, fitted, scored, source.sha256)
