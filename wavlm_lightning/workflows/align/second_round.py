"""One round of realignment: a small classifier of frames learns from the first alignment and moves its boundaries."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.audio_progress import HoursBar
from wavlm_lightning.data.alignments import SILENCE, AlignmentSet, AlignmentWriter, Segment
from wavlm_lightning.data.alignments.alignment_set import Aligned
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.data.shard_index import ShardIndex
from wavlm_lightning.system.progress import timed
from wavlm_lightning.tasks.components.realignment import FrameClassifier, train_classifier
from wavlm_lightning.workflows.align.aligner import Aligner
from wavlm_lightning.workflows.align.shards import AlignedCorpus, described, pending_shards

TEACHING_SECONDS = 2 * 3600.0  # of audio that the classifier of a realignment learns from


def realign_shards(
    corpus: Corpus, name: str, first: str, splits: list[str], about: dict[str, Any], aligner: Aligner
) -> AlignedCorpus:
    """Train a classifier of frames on the alignments `first`, and align with it."""
    before = AlignmentSet.open(corpus, first)
    with AlignmentWriter(corpus, name, about, splits) as writer:
        pending, samples = pending_shards(corpus, splits, writer)
        if pending:
            with timed("classifier of frames"):
                classifier = train_classifier(before.inventory, aligner.rate, list(_lessons(corpus, before, splits)))
            with HoursBar(samples, samples - sum(sum(shard.samples) for shard in pending), "realign") as bar:
                for shard in pending:
                    rows = before.of_shard(shard)
                    writer.write(shard, [_again(classifier, shard, place, row) for place, row in enumerate(rows)])
                    bar.add(sum(shard.samples))
        writer.about |= {key: before.about[key] for key in ("labelled", "teacher_labelled")}
    return described(corpus, name, splits, writer.directory)


def _lessons(
    corpus: Corpus, before: AlignmentSet, splits: Sequence[str]
) -> Iterator[tuple[np.ndarray, Sequence[Segment]]]:
    """Waveforms and phones for the classifier: the utterances in order, up to `TEACHING_SECONDS`."""
    left = TEACHING_SECONDS
    for split in splits:
        for shard in corpus.split(split).shards:
            for place, row in enumerate(before.of_shard(shard)):
                if row is not None and left > 0:
                    left -= shard.samples[place] / SAMPLE_RATE
                    yield shard.waveform(place), row.phones


def _again(classifier: FrameClassifier, shard: ShardIndex, place: int, row: Aligned | None) -> Aligned | None:
    """An utterance with the times of the classifier; those of the first round if it has fewer frames than phones."""
    if row is None or (phones := classifier.realign(shard.waveform(place), row.phones)) is None:
        return row
    if row.words is None:
        return Aligned(phones)
    starts = [word.start for word in row.words]
    spoken = [max(0, bisect.bisect_right(starts, start) - 1) for label, start, _ in row.phones if label != SILENCE]
    words: dict[int, tuple[float, float]] = {}
    for at, (_, start, end) in zip(spoken, (one for one in phones if one.name != SILENCE), strict=True):
        words[at] = (words.get(at, (start, end))[0], end)
    return Aligned(phones, [Segment(row.words[at].name, *times) for at, times in words.items()])
