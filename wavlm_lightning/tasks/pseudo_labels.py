"""Training data of a noisy student: utterances that a recogniser has transcribed, mixed with truly labelled ones.

Park et al., "Improved noisy student training for automatic speech recognition" (arXiv 2005.09629). The corpora come from `wavlm
pseudo-label`; the mixture is that of pre-training (`data.loading.mixture`): shares of the audio, drawn without a second time
for an utterance before all of its corpus came once.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.loading.mixture import Source, folders_of, sources_of
from wavlm_lightning.data.split import Split
from wavlm_lightning.data.subset import Subset, join_splits
from wavlm_lightning.encoder.checkpoints.labels_seen import LABELLED, joined
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.contract import PROCESSING

PSEUDO = "pseudo_labels"  # of `source` in `corpus.json`: how the transcripts were made
LABEL_SOURCE = "label_source"  # of a record: who wrote its transcript
OPTION = "data.pseudo_corpus"


def is_pseudo(corpus: Corpus) -> bool:
    """Whether the transcripts of a corpus are those of a recogniser (`wavlm pseudo-label`)."""
    return isinstance(corpus.body["source"].get(PSEUDO), dict)


def counts_of(corpus: Corpus, split: Split) -> dict[str, Any]:
    """What cards say of the labels of a split: `utterances`, `seconds` and `corpus`; of pseudo-labels `round` and `labelled`."""
    counts: dict[str, Any] = {"utterances": len(split), "seconds": round(split.seconds, 2), "corpus": corpus.name}
    if is_pseudo(corpus):
        about = corpus.body["source"][PSEUDO]
        counts |= {"round": about.get("round", 1), LABELLED: joined(about.get(LABELLED))}
    return counts


def refuse_pseudo(corpus: Corpus, splits: Mapping[str, Split]) -> None:
    """Raise `UserError` if validation or test have pseudo-labels: their figures would be agreement with a teacher.

    Reads the first record of each shard; `check_record` sees the others when they are read.
    """
    for name, split in splits.items():
        if is_pseudo(corpus):
            raise UserError(
                f"data.{name}_split {split.name}: the transcripts of {corpus.directory} are pseudo-labels; validate and test on "
                f"true ones, and name this corpus in {OPTION}"
            )
        for shard in split.shards:
            check_record(shard.meta(0), f"{shard.path}: utterance {shard.keys[0]!r}")


def is_pseudo_record(meta: Mapping[str, Any]) -> bool:
    """Whether a record says that its transcript is a pseudo-label."""
    source = meta.get(LABEL_SOURCE)
    return isinstance(source, Mapping) and source.get("kind") == "pseudo"


def check_record(meta: Mapping[str, Any], where: str) -> None:
    """Raise `UserError` if a record of validation or test says that its transcript is a pseudo-label."""
    if is_pseudo_record(meta):
        raise UserError(
            f"{where} has a pseudo-label (`{LABEL_SOURCE}`), and validation and test need true ones; leave it out there"
        )


class PseudoLabelled:
    """The pseudo-labelled part of a training set.

    Args:
        corpus: the option `data.pseudo_corpus`.
        share: of the audio that is trained on.

    Attributes:
        bounds: number of the first shard of each corpus of the joined split, the true one first, and the number of all shards.
        weights: of each of them.
        counts: what cards say of the pseudo-labels.
        layout: what decides on the mixture, for exact resume.

    Raises:
        UserError: the share is no share, or the weights do not fit.
    """

    def __init__(self, corpus: str | Sequence[str | Source], share: float) -> None:
        if not 0 < share < 1:
            raise UserError(
                f"data.pseudo_share {share}: must be above 0 and below 1; it is the share of pseudo-labelled audio in training"
            )
        self.sources, self.share = sources_of(corpus, OPTION), share
        self.bounds: list[int] = []
        self.weights: list[float] = []
        self.counts: dict[str, Any] = {}
        self.layout: list[Any] = []

    def join(self, real: Corpus, train: Split, min_seconds: float = 0.0) -> Split:
        """The training split with true labels and, behind it, all utterances of the pseudo-labelled corpora that are long enough.

        Args:
            real: the corpus of `train`.
            train: a split, or some utterances of one.
            min_seconds: pseudo-labelled utterances that are no longer than this are left out.

        Raises:
            UserError: a corpus has other than pseudo-labels, or its audio was processed in another way.
        """
        groups = [[Corpus.open(folder) for folder in folders_of(source.path)] for source in self.sources]
        for corpus in itertools.chain(*groups):
            _check(corpus, real)
        whole = Split(train.name, train.shards, train.lengths)
        added = [[corpus.split(name) for corpus in group for name in corpus.splits] for group in groups]
        pseudo = list(itertools.chain(*added))
        split = join_splits(f"{train.name}+pseudo-labels", [whole, *pseudo])
        samples, first = split.samples, len(whole)
        long_enough = first + np.flatnonzero(samples[first:] > min_seconds * SAMPLE_RATE)
        if not len(long_enough):
            raise UserError(f"{OPTION}: no utterance is left with data.min_seconds={min_seconds}; set less")
        chosen = train.numbers if isinstance(train, Subset) else np.arange(first)
        self.bounds = [
            0,
            *itertools.accumulate([len(whole.shards), *(sum(len(s.shards) for s in some) for some in added)]),
        ]
        self.weights = [
            1 - self.share,
            *(self.share * weight for weight in self._among(samples, self.bounds, split.starts)),
        ]
        opened = list(itertools.chain(*groups))
        rounds = [corpus.body["source"][PSEUDO].get("round", 1) for corpus in opened]
        self.counts = {
            "utterances": len(long_enough),
            "seconds": round(float(samples[long_enough].sum()) / SAMPLE_RATE, 2),
            "corpus": " + ".join(corpus.name for corpus in opened),
            "share": self.share,
            "round": max(rounds),
            LABELLED: joined(*(corpus.body["source"][PSEUDO].get(LABELLED) for corpus in opened)),
        }
        self.layout = [[corpus.sha256 for corpus in opened], self.weights]
        return Subset.of(split, np.concatenate([chosen, long_enough]), "to train on")

    def refuse_judged(self, judged: Mapping[str, Split]) -> None:
        """Raise `UserError` if a pseudo-labelled utterance is one of the splits by which the student is judged.

        It is if it has the key and the length: corpora may call different recordings by one name.
        """
        lengths = [dict(zip(split.keys, split.samples.tolist(), strict=True)) for split in judged.values()]
        for source in self.sources:
            for corpus in map(Corpus.open, folders_of(source.path)):
                pseudo = join_splits("pseudo-labels", [corpus.split(name) for name in corpus.splits])
                for key, samples in zip(pseudo.keys, pseudo.samples.tolist(), strict=True):
                    for (name, split), known in zip(judged.items(), lengths, strict=True):
                        if known.get(key) == samples:
                            raise UserError(
                                f"{OPTION}: utterance {key!r} of {corpus.directory} is in data.{name}_split {split.name}, too, "
                                "by which the student is judged; make the pseudo-labels again with `wavlm pseudo-label ... "
                                "--exclude` and the labelled corpus"
                            )

    def _among(self, samples: np.ndarray, bounds: Sequence[int], starts: np.ndarray) -> list[float]:
        """Shares of the pseudo-labelled corpora among themselves: by their weights, else by their audio."""
        given = [source.weight for source in self.sources]
        if any(weight is None for weight in given):
            ends = itertools.pairwise(starts[bounds[1:]].tolist())
            given = [float(samples[begin:end].sum()) for begin, end in ends]
        total = sum(weight for weight in given if weight is not None)
        return [weight / total for weight in given if weight is not None]


def _check(corpus: Corpus, real: Corpus) -> None:
    where = f"{OPTION}: {corpus.directory}"
    if is_pseudo(real):
        raise UserError(
            f"data.corpus {real.directory}: its transcripts are pseudo-labels, too; name a truly labelled corpus there, and this "
            f"one in {OPTION}"
        )
    if not is_pseudo(corpus):
        raise UserError(
            f"{where} names no teacher in its corpus.json, so they are no pseudo-labels; make it with `wavlm pseudo-label`, "
            "or name a truly labelled corpus in data.corpus"
        )
    ours, theirs = ({name: each.body["source"].get(name) for name in PROCESSING} for each in (real, corpus))
    if ours != theirs:
        raise UserError(
            f"{where}: its audio was prepared with {theirs}, that of {real.directory} with {ours}; prepare both alike"
        )
