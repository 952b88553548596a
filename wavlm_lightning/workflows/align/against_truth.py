"""Alignments against the true times of a corpus: share of frames with the right phone, boundaries within 20 and 40 ms."""

from __future__ import annotations

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.data.alignments import AlignmentSet, frame_classes
from wavlm_lightning.data.alignments.alignment_set import OWN, Aligned, alignment_sets
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics.segment_times import boundary_offsets
from wavlm_lightning.tasks.components.spoken_text import spoken_text

WINDOW = 400  # samples of the window of a frame
TOLERANCES = (0.02, 0.04)  # seconds by which a boundary may be off


def compared_with_truth(corpus: Corpus, name: str, split: str, rate: float) -> list[str]:
    """Lines that compare a set with the true times that a corpus has in its metadata; none where it has none.

    Frames are counted in all utterances that have both, boundaries where the names agree.
    """
    if OWN not in alignment_sets(corpus):
        return []
    found, truth = AlignmentSet.open(corpus, name), AlignmentSet.open(corpus, OWN)
    phones = found.about.get("units") != "letters"
    numbers = {label: n for n, label in enumerate(sorted({*found.inventory, *truth.inventory}))}
    right = frames = compared = agreeing = 0
    offsets: list[float] = []
    for shard in corpus.split(split).shards:
        rows = zip(found.of_shard(shard), truth.of_shard(shard), shard.samples, strict=True)
        for one, other, samples in rows:
            if one is None or other is None:
                continue
            compared += 1
            if phones:
                count = int((samples - WINDOW) * rate // SAMPLE_RATE) + 1
                classes = [frame_classes(row.phones, count, rate, numbers) for row in (one, other)]
                right, frames = right + int((classes[0] == classes[1]).sum()), frames + count
                missed = boundary_offsets(other.phones, one.phones)
            else:
                missed = _word_offsets(one, other)
            agreeing += missed is not None
            offsets += missed or []
    if not compared:
        return []
    parts = [f"{right / frames:.1%} of {frames:,} frames have the right phone"] if phones else []
    if offsets and 2 * agreeing >= compared:  # a few short utterances that were heard right say little
        away = np.array(offsets)
        near = " and ".join(f"{(away <= limit + 1e-9).mean():.1%} within {1000 * limit:.0f} ms" for limit in TOLERANCES)
        of = (
            ""
            if agreeing == compared
            else f" of the {agreeing:,} utterances whose {'phones' if phones else 'words'} are the true ones"
        )
        parts.append(f"of {len(away):,} {'boundaries' if phones else 'boundaries of words'}{of} {near}")
    return [f"{split}, against the true times: {'; '.join(parts)}"] if parts else []


def _word_offsets(one: Aligned, other: Aligned) -> list[float] | None:
    """The same of words, whose spelling need not agree in case."""
    if one.words is None or other.words is None:
        return None
    said = [(spoken_text(name), start, end) for name, start, end in other.words]
    return boundary_offsets(said, [(spoken_text(name), start, end) for name, start, end in one.words])
