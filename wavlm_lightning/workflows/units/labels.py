"""Measures of label sets and of alignments: agreement with phones, boundaries, runs, and agreement with each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.codebooks.labels import LabelSet
from wavlm_lightning.codebooks.quality import PhoneFrames
from wavlm_lightning.data.alignments import SILENCE, AlignmentSet, Segment, frame_classes
from wavlm_lightning.data.split import Split
from wavlm_lightning.metrics import cluster_quality
from wavlm_lightning.metrics.boundaries import BoundaryScore, boundary_scores, segment_boundaries, unit_boundaries
from wavlm_lightning.metrics.stability import segment_lengths, stability
from wavlm_lightning.system.errors import UserError

FINE = 100.0  # frames a second at which two alignments are compared
TOLERANCES = (0.02, 0.04)  # seconds, of boundaries of alignments

Rows = Sequence[list[Segment] | None]


def label_measures(labels: LabelSet, times: AlignmentSet | None, split: str) -> dict[str, Any]:
    """The measures of a label set on a split, as `units.json` holds them.

    Args:
        labels: of the split.
        times: of its phones; without them, what needs phones is left out.
        split: its name.
    """
    rows = [labels.rows[number] for number in range(len(labels.rows))]
    everything = np.concatenate(rows)
    if not len(everything):
        raise UserError(f"--labels: no utterance of split {split!r} has labels; choose another --split or set")
    found: dict[str, Any] = {
        **labels.codebook(),
        "in_use": len(np.unique(everything)),
        "utterances": sum(len(row) > 0 for row in rows),
        "segment_ms": asdict(segment_lengths(rows, labels.rate)),
    }
    if times is None:
        return found
    phones, units, references, predictions = [], [], [], []
    phones_of = PhoneFrames(labels.rate)
    aligned = 0
    for row, segments in zip(rows, times.rows(split), strict=True):
        if not segments or not len(row):  # sets made from alignments may lack utterances, which miss no boundary
            continue
        aligned += 1
        found_phones, inside = phones_of(segments, len(row))
        phones.append(found_phones)
        units.append(row[inside])
        references.append(segment_boundaries(segments))
        predictions.append(unit_boundaries(row[inside], labels.rate))
    if not sum(map(len, references)):
        return found
    phone, unit = np.concatenate(phones), np.concatenate(units)
    if len(np.unique(phone)) < 2:  # labels say nothing about one phone
        return found
    spoken = phone != phones_of.names[SILENCE]
    found |= {
        "aligned_utterances": aligned,
        "frames": len(phone),
        "with_silence": asdict(cluster_quality(phone, unit)),
        "silence": float(1 - spoken.mean()),
        "boundaries": _boundaries(boundary_scores(references, predictions)),
        "phone_ms": asdict(segment_lengths(phones, labels.rate)),
    }
    if len(np.unique(phone[spoken])) > 1:
        found["without_silence"] = asdict(cluster_quality(phone[spoken], unit[spoken]))
    return found


def stability_of(one: LabelSet, other: LabelSet) -> dict[str, Any]:
    """Agreement of two label sets on all frames of a split; of 100 Hz labels beside 50 Hz ones, every other one is compared.

    Raises:
        UserError: neither rate is a multiple of the other.
    """
    low = min(one.rate, other.rate)
    steps = [labels.rate / low for labels in (one, other)]
    if any(step != int(step) for step in steps):
        raise UserError(
            f"--labels: {one.rate:g} and {other.rate:g} labels a second have no common frames; compare label sets of one rate"
        )
    first, second = (int(step) for step in steps)
    parts = []
    for number in range(len(one.rows)):
        left, right = one.rows[number][::first], other.rows[number][::second]
        frames = min(len(left), len(right))  # at the end one of two rates may have a frame more
        parts.append((left[:frames], right[:frames]))
    return asdict(stability(np.concatenate([a for a, _ in parts]), np.concatenate([b for _, b in parts])))


def alignment_measures(times: AlignmentSet, reference: AlignmentSet, split: Split) -> dict[str, Any]:
    """An alignment against another one: share of frames with the same phone, and boundaries, as `units.json` holds them.

    Raises:
        UserError: no utterance is in both.
    """
    names = dict.fromkeys([SILENCE, *times.inventory, *reference.inventory])
    classes = {name: number for number, name in enumerate(names)}
    same = frames = utterances = 0
    references, predictions = [], []
    pairs = zip(times.rows(split.name), reference.rows(split.name), split.samples.tolist(), strict=True)
    for found, truth, samples in pairs:
        if not found or not truth:
            continue
        utterances += 1
        count = max((samples - 400) // 160 + 1, 0)
        left, right = (frame_classes(each, count, FINE, classes) for each in (found, truth))
        same, frames = same + int((left == right).sum()), frames + count
        there, predicted = (segment_boundaries(each, samples / SAMPLE_RATE) for each in (truth, found))
        references.append(there)
        predictions.append(predicted)
    if not sum(map(len, references)):
        raise UserError(
            f"--compare {times.name}: no utterance of split {split.name!r} has times there and in {reference.name!r}; align "
            "this split"
        )
    measured = {
        f"boundaries_{round(1000 * tolerance)}ms": _boundaries(boundary_scores(references, predictions, tolerance))
        for tolerance in TOLERANCES
    }
    return {**times.about, "utterances": utterances, "frames": frames, "same_phone": same / frames, **measured}


def _boundaries(found: BoundaryScore) -> dict[str, Any]:
    return {**asdict(found), "f1": dict(found.f1._asdict())}
