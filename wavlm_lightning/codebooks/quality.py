"""Quality of frame labels (purity, PNMI) against the phone alignments of a corpus."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from wavlm_lightning.codebooks.labels import LabelSet
from wavlm_lightning.data.alignments import OWN, SILENCE, AlignmentSet, Segment, frame_classes
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics import ClusterQuality, cluster_quality


class PhoneFrames:
    """The phones of frames, with numbers that grow as names appear."""

    def __init__(self, rate: float) -> None:
        self.rate = rate
        self.names: dict[str, int] = {SILENCE: 0}

    def __call__(self, segments: Sequence[Any], frames: int) -> tuple[np.ndarray, np.ndarray]:
        """The phone in the middle of the 25 ms window of each frame that begins before the last segment ends.

        Returns:
            Numbers of phones int64 `(inside,)`, and which frames these are, bool `(frames,)`.
        """
        for name, _, _ in segments:
            self.names.setdefault(name, len(self.names))
        rows = [Segment(*each) for each in segments]
        inside = np.arange(frames) / self.rate + 0.0125 < rows[-1].end
        return frame_classes(rows, frames, self.rate, self.names)[inside], inside


def timed_phones(corpus: Corpus, split: str, alignments: str = OWN) -> Iterator[Sequence[Any] | None]:
    """Phones `(name, start, end)` in seconds of every utterance of a split; None where there are none with times.

    Args:
        corpus: the corpus.
        split: name of the split.
        alignments: `corpus` for the times in its metadata, or the name of a set that `wavlm align` has written.

    Raises:
        UserError: there is no such set, or it lacks the split.
    """
    if alignments != OWN:
        for segments in AlignmentSet.open(corpus, alignments).rows(split):
            yield segments or None
        return
    for meta in corpus.split(split).metas():
        phones = meta.get("phones")  # those from a lexicon have no times
        yield phones if phones and len(phones[0]) >= 3 else None


def label_quality(corpus: Corpus, name: str, split: str, alignments: str = OWN) -> ClusterQuality | None:
    """Compare the labels of a split with its phone alignments, frame by frame; None if no phones have times."""
    labels = LabelSet.open(corpus, name, split)
    return quality_of(zip(timed_phones(corpus, split, alignments), labels.rows, strict=True), labels.rate)


def quality_of(rows: Iterable[tuple[Sequence[Any] | None, np.ndarray]], rate: float) -> ClusterQuality | None:
    """Compare phones of utterances with their labels, `rate` a second.

    None if no utterance has labels and phones with times, or if all frames have one phone, about which labels say nothing.
    """
    at, phones, clusters = PhoneFrames(rate), [], []
    for segments, row in rows:
        if segments is not None and len(row):  # sets made from alignments may lack utterances
            found, inside = at(segments, len(row))
            phones.append(found)
            clusters.append(row[inside])
    if not phones or len(np.unique(found := np.concatenate(phones))) < 2:
        return None
    return cluster_quality(found, np.concatenate(clusters))
