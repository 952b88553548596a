"""How many clusters the labels of a corpus use, and how evenly: a codebook of which few are in use teaches little."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file

from wavlm_lightning.codebooks.label_files import SOFT_WEIGHTS, label_file, labels_directory
from wavlm_lightning.codebooks.labels import label_head
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.system.files import write_json
from wavlm_lightning.system.reading import reading

FACTS = "usage.json"


@dataclass(frozen=True)
class LabelUsage:
    """Use of the clusters by the labels that are there.

    Attributes:
        clusters: of the codebook.
        in_use: those with at least one label.
        perplexity: exp of the entropy of the labels in nats: the number of clusters that would be as diverse if all were used
            equally; at most `clusters`.
        labels: frames counted.
        shards: label files counted.
        of_shards: shards of the corpus.
        soft_share: mean share of the posterior that the soft labels of a frame hold together; None without soft labels.
    """

    clusters: int
    in_use: int
    perplexity: float
    labels: int
    shards: int
    of_shards: int
    soft_share: float | None = None

    @classmethod
    def of(cls, counts: np.ndarray, shards: int, of_shards: int, soft_share: float | None = None) -> LabelUsage:
        """From the number of labels of each cluster, int64 `(clusters,)`."""
        total = int(counts.sum())
        shares = counts[counts > 0] / max(total, 1)
        perplexity = float(np.exp(-(shares * np.log(shares)).sum())) if total else 0.0
        return cls(len(counts), int((counts > 0).sum()), perplexity, total, shards, of_shards, soft_share)

    def __str__(self) -> str:
        some = f", in {self.shards} of {self.of_shards} shards so far" if self.shards < self.of_shards else ""
        use = f"{self.in_use} of {self.clusters} clusters in use, perplexity {self.perplexity:.1f}"
        return f"{use} over {self.labels:,} labels{some}"


def label_usage(corpus: Corpus, name: str) -> LabelUsage:
    """Count the labels of every shard that has some.

    Raises:
        UserError: there is no such label set, or a file of it cannot be read.
    """
    directory = labels_directory(corpus, name)
    head = label_head(corpus, name)
    counts, held = np.zeros(int(head["size"]), np.int64), 0.0
    paths = [label_file(directory, shard) for split in corpus.splits for shard in corpus.split(split).shards]
    there = [path for path in paths if path.is_file()]
    for path in there:
        with reading(path, "the labels of a shard", "remove it and run the command again"):
            tensors = load_file(path)
            found = np.bincount(tensors["labels"], minlength=len(counts))
            if len(found) > len(counts):
                raise ValueError(f"it has label {len(found) - 1}, and the codebook {len(counts)} clusters")
            counts += found
            if "soft" in head:
                held += float(tensors[SOFT_WEIGHTS].sum(dtype=np.float64))
    share = held / max(int(counts.sum()), 1) if "soft" in head else None
    return LabelUsage.of(counts, len(there), len(paths), share)


def write_usage(usage: LabelUsage, directory: Path) -> None:
    """Keep the counts beside the labels, unless the folder of complete labels is read-only."""
    if os.access(directory, os.W_OK):
        write_json(directory / FACTS, {name: value for name, value in asdict(usage).items() if value is not None})
