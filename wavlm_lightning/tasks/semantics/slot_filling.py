"""SF: slot filling, transcripts with marked slots, with CTC (SUPERB; Audio SNIPS)."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from wavlm_lightning.augment.spec_augment import SpecAugment
from wavlm_lightning.data.batch import TaskBatch
from wavlm_lightning.data.corpus import Corpus
from wavlm_lightning.metrics.slots import SlotTypeF1, SlotValueCER, parse_slots
from wavlm_lightning.reports.utterances import UtteranceResults
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Direction
from wavlm_lightning.tasks.components.recurrent import RecurrentHead
from wavlm_lightning.tasks.components.spoken_text import spoken_text
from wavlm_lightning.tasks.ctc import CtcTask
from wavlm_lightning.upstreams import Upstream

SPECIAL = ("<pad>", "<eos>", "<unk>")
EOS, UNKNOWN = 1, 2
CHARACTERS = " " + string.ascii_uppercase + "'"
OUTSIDE = "O"
UNSPOKEN = "?!.,;-"  # substrings of this string are punctuation tokens (s3prl `downstream/ctc/text.py`)

Tagged = list[list[str]]


class SlotFilling(CtcTask):
    """The head of ASR over characters and, for each type of slot, the marks `B-type` and `E-type` around its value.

    The headline metric is the F1 of slot types; `cer` is the character error rate of slot values (`metrics.slots`). The best
    checkpoint is the one with the best F1. SpecAugment in training; blank is index 0. Source: s3prl `downstream/ctc`
    (`snips.yaml`, `text.py`). With Audio SNIPS' 39 types there are 109 outputs.

    Reads the corpus' `slots` and, of each utterance, either `tagged`, `[[word, tag], ...]` with `O` outside slots, or
    `text` and `slots`, `[[type, value], ...]` in the order of the text. Neighbouring words with one tag form one slot, as
    in SUPERB, since Audio SNIPS' tags do not mark where a slot begins.

    Peculiarities of s3prl:

    - Punctuation is dropped together with the symbols at its place: an utterance that ends in punctuation ends in a space
      without an end symbol, and a slot that begins or ends with punctuation has no begin or end mark, so that it does not
      count. `protocol: superb` does the same for `tagged`; `fixed` makes targets as if there were no punctuation.
    - Time masks lie within the padded length with `superb`, within each utterance's own with `fixed`; see
      `SpeechRecognition`.
    - Batches of neighbours by target length, halved above 18.75 s: under neither protocol; see `PhonemeRecognition`.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        hidden: width of the projection, and LSTM cells in each direction; 1024 in SUPERB.
        layers: LSTMs; 2 in SUPERB.
        dropout: after each LSTM; 0.2 in SUPERB.
        settings: see `Task`: normalize, seed, protocol.
    """

    name = "SF"
    metric = "f1"
    unknown: ClassVar[int | None] = UNKNOWN
    better = "higher"
    others: ClassVar[dict[str, Direction]] = {"cer": "lower"}

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float = 1e-4,
        hidden: int = 1024,
        layers: int = 2,
        dropout: float = 0.2,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        self.hidden, self.layers, self.dropout = hidden, layers, dropout

    def read_labels(self, corpus: Corpus) -> list[str]:
        """Three special symbols, 28 characters, and two marks for each type of slot."""
        marks = [mark + slot for slot in corpus.inventory("slots") for mark in ("B-", "E-")]
        return [*SPECIAL, *CHARACTERS, *marks]

    def read_target(self, meta: dict[str, Any]) -> Tensor:
        """Characters and marks, int64 `(labels,)`."""
        if "tagged" in meta:
            tagged = meta["tagged"]
            symbols = _superb_symbols(tagged) if self.protocol == "superb" else _symbols(_spans(tagged))
        else:
            symbols = _symbols(_placed(meta.get("text") or "", meta.get("slots")))
        if not symbols:
            raise UserError("SF: an utterance has no text; use a corpus with transcripts and slots")
        # Marks have more than one character: an unknown mark is an error, an unknown letter becomes <unk>.
        missing = [symbol for symbol in symbols if len(symbol) > 1 and symbol not in self._numbers]
        if missing:
            raise UserError(f"SF: an utterance has a slot {missing[0][2:]!r}, which is not among the corpus' slots")
        return torch.tensor([self._numbers.get(symbol, UNKNOWN) for symbol in symbols])

    def build_head(self, dim: int) -> None:
        self.augment = SpecAugment(own_length=self.protocol == "fixed")
        self.head = RecurrentHead(dim, len(self.labels), self.hidden, self.layers, self.dropout)

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Logits `(batch, frames, labels)`; in training, of augmented features."""
        return self.head(self.augment(features, lengths), lengths)

    def spell(self, numbers: list[int]) -> str:
        """Text with marks, such as `PLAY B-artist NINA SIMONE E-artist`, without end symbols."""
        labels = [self.labels[number] for number in numbers if number != EOS]
        return "".join({"B-": f"{label} ", "E-": f" {label}"}.get(label[:2], label) for label in labels)

    def build_metric(self) -> MetricCollection:
        """F1 of slot types and character error rate of slot values."""
        return MetricCollection({"f1": SlotTypeF1(), "cer": SlotValueCER()}, compute_groups=False)

    def utterance_scores(
        self, outputs: Tensor, lengths: Tensor, batch: TaskBatch
    ) -> Sequence[tuple[float, ...]] | None:
        """The F1 of each utterance, the edits and the characters of its slot values, and 1: the F1 is a mean over utterances."""
        scores, cer = super().utterance_scores(outputs, lengths, batch), SlotValueCER().to(outputs.device)
        assert scores is not None
        cer.distributed_available_fn = lambda: False  # other processes are at other utterances
        rows = []
        pairs = zip(scores, self.decode(outputs, lengths), self.references(batch.targets), strict=True)
        for (f1, one), text, reference in pairs:
            cer.reset()
            cer.update([text], [reference])
            rows.append((f1, float(cer.errors), float(cer.total), one))
        return rows

    def further_results(self) -> list[UtteranceResults]:
        """Characters of slot values behind the character error rate."""
        first = self.utterance_results
        if first is None:
            return []
        _, errors, counts, _ = np.array([self.scored.rows[key] for key in first.keys]).T
        scale = self.unit("cer").scale
        found = replace(first, metric="cer", better="lower", scale=scale, errors=errors, counts=counts)
        return [found] if counts.any() else []

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The transcript with its marks, the types and values of its slots, and `nbest` transcripts if asked for."""
        rows = super().readable(outputs, lengths)
        for row in rows:
            row["slots"] = [list(slot) for slot in parse_slots(row["text"])]
        return rows


def _spoken(word: str) -> str:
    return "AND" if word == "&" else word.upper()


def _superb_symbols(tagged: Tagged) -> list[str]:
    """The target as s3prl makes it, which drops with punctuation the symbols at its place."""
    tags = [OUTSIDE, *(tag for _, tag in tagged), OUTSIDE]
    last = len(tagged)
    symbols: list[str] = []
    for place, (word, tag) in enumerate(tagged, 1):
        if word in UNSPOKEN:
            continue
        if tag not in (OUTSIDE, tags[place - 1]):
            symbols.append("B-" + tag)
        symbols += _spoken(word)
        if tag not in (OUTSIDE, tags[place + 1]):
            symbols.append("E-" + tag)
        symbols.append(SPECIAL[EOS] if place == last else " ")
    return symbols


def _symbols(spans: Tagged) -> list[str]:
    """The target of consecutive (text, tag) spans: marks around each slot, and an end symbol."""
    symbols: list[str] = []
    for text, tag in spans:
        marked = list(text) if tag == OUTSIDE else ["B-" + tag, *text, "E-" + tag]
        symbols += [" ", *marked] if symbols else marked
    return [*symbols, SPECIAL[EOS]] if symbols else []


def _spans(tagged: Tagged) -> Tagged:
    """Runs of one tag as (text, tag), without punctuation and without empty runs."""
    runs = [
        (" ".join(_spoken(word) for word, _ in run if word not in UNSPOKEN), tag)
        for tag, run in groupby(tagged, key=lambda pair: pair[1])
    ]
    return [[text, tag] for text, tag in runs if text]


def _placed(text: str, slots: list[list[str]] | None) -> Tagged:
    """The (text, tag) spans of a text whose slot values are searched in order, as whole words."""
    if slots is None:
        raise UserError("SF: an utterance has neither tagged words nor slots; use a corpus with slots")
    words, spans = spoken_text(text).split(), []
    for slot, value in slots:
        wanted = spoken_text(value).split()
        start = next((i for i in range(len(words)) if words[i : i + len(wanted)] == wanted), None)
        if start is None or not wanted:
            raise UserError(f"SF: the {slot} {value!r} is not in the text {text!r}, or not after the slots before it")
        if start:
            spans.append([" ".join(words[:start]), OUTSIDE])
        spans.append([" ".join(wanted), slot])
        words = words[start + len(wanted) :]
    return [*spans, [" ".join(words), OUTSIDE]] if words else spans
