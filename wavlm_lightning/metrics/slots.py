"""Slot filling metrics of transcripts with marked slots, such as `PLAY B-artist NINA SIMONE E-artist`.

As s3prl `metric/slot_filling.py`, which SUPERB reports for SF: F1 of slot types and character error rate of slot values.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import char_error_rate
from torchmetrics.text import CharErrorRate

# The end mark matches as a prefix on purpose, as in SUPERB's scorer: `B-playlist X E-playlist_owner` is a playlist.
_SLOT = re.compile(r"B-(?P<type>\S+) (?P<value>.+?) E-(?P=type)")
_STRAY_BEGIN = re.compile(r"B-\S+ ")
_STRAY_END = re.compile(r" E-\S+")


def parse_slots(text: str) -> list[tuple[str, str]]:
    """Types and values of the slots of a transcript, in order.

    A slot is a begin mark, at least one character, and the next end mark of the same type. Marks without a partner are
    ignored, and marks inside a value are removed from it.

    Example:
        >>> parse_slots("ADD B-artist NINA B-city SIMONE E-artist TO E-city B-playlist JAZZ E-playlist")
        [('artist', 'NINA SIMONE'), ('playlist', 'JAZZ')]
    """
    single_spaced = re.sub(" +", " ", text)
    found = _SLOT.finditer(single_spaced)
    return [(slot["type"], _STRAY_END.sub("", _STRAY_BEGIN.sub("", slot["value"]))) for slot in found]


def slot_type_f1(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Mean over utterances of the F1 of the set of slot types, a fraction.

    An utterance without slots scores 1 if the hypothesis has none either, else 0; repeated types count once.

    Raises:
        ValueError: the lists differ in length or are empty.
    """
    scores = [_type_f1(hypothesis, reference) for hypothesis, reference in _paired(hypotheses, references)]
    if not scores:
        raise ValueError("slot_type_f1 needs at least one utterance")
    return sum(scores) / len(scores)


def slot_value_cer(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Edits over characters of all reference slot values, a fraction.

    Each reference value is compared with the closest hypothesis value of its type, which may serve several references, or
    with the empty string if the hypothesis lacks the type. Further hypothesis slots cost nothing.

    Raises:
        ValueError: the lists differ in length, or the references have no slot.
    """
    found, expected = _value_pairs(hypotheses, references)
    if not expected:
        raise ValueError("slot_value_cer needs at least one slot in the references")
    return float(char_error_rate(found, expected))


class SlotTypeF1(Metric):
    """`slot_type_f1` over a data set, from lists of hypotheses and references; NaN without any."""

    full_state_update = False
    is_differentiable = False
    higher_is_better = True
    scores: Tensor
    utterances: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", torch.tensor(0.0), dist_reduce_fx="sum")
        self.add_state("utterances", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        self.scores += sum(_type_f1(hypothesis, reference) for hypothesis, reference in _paired(preds, target))
        self.utterances += len(target)

    def compute(self) -> Tensor:
        return self.scores / self.utterances


class SlotValueCER(CharErrorRate):
    """`slot_value_cer` over a data set, from lists of hypotheses and references; NaN without any slot."""

    def update(self, preds: Sequence[str], target: Sequence[str]) -> None:
        found, expected = _value_pairs(preds, target)
        super().update(found, expected)


def _paired(hypotheses: Sequence[str], references: Sequence[str]) -> Iterator[tuple[str, str]]:
    if len(hypotheses) != len(references):
        raise ValueError(
            f"slot metrics need one hypothesis for each reference, got {len(hypotheses)} and {len(references)}"
        )
    return zip(hypotheses, references, strict=True)


def _type_f1(hypothesis: str, reference: str) -> float:
    found = {kind for kind, _ in parse_slots(hypothesis)}
    expected = {kind for kind, _ in parse_slots(reference)}
    if not found and not expected:
        return 1.0
    return 2 * len(found & expected) / (len(found) + len(expected))


def _value_pairs(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[str]]:
    """The closest hypothesis value for every reference value, and the reference values."""
    pairs = []
    for hypothesis, reference in _paired(hypotheses, references):
        found = parse_slots(hypothesis)
        for kind, value in parse_slots(reference):
            candidates = [candidate for candidate_kind, candidate in found if candidate_kind == kind]
            best = min(candidates, key=lambda text: float(char_error_rate([text], [value])), default="")
            pairs.append((best, value))
    return [best for best, _ in pairs], [value for _, value in pairs]
