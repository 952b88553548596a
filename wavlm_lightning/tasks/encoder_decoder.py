"""Tasks with a Transformer encoder-decoder: attention ASR, speech translation. Loss, beam search, limits of answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from torch import Tensor

from wavlm_lightning.data.batch import Targets, TaskBatch
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.base import Answer
from wavlm_lightning.tasks.components.beam_search import Hypothesis
from wavlm_lightning.tasks.components.decoder.network import EncoderDecoder, NetworkSize
from wavlm_lightning.tasks.components.decoder.search import Decoding, Found, Scorer
from wavlm_lightning.tasks.text import TextTask, listed
from wavlm_lightning.upstreams import Upstream
from wavlm_lightning.upstreams.cache import Level

LABELS_PER_SECOND = 30  # more than anybody says; an answer of more labels goes round in circles
SPARE_LABELS = 10  # of any answer


class EncoderDecoderTask(TextTask):
    """An answer of any length, label by label, from a Transformer decoder that attends to the encoder's frames.

    The outputs of the head are the encoder's hidden states; loss and search read them. Targets have neither begin nor end. The
    loss of an utterance is summed over its labels, and that of a batch is the mean over utterances, as in fairseq and ESPnet.

    A subclass implements `read_labels`, `read_target`, `spell` and `build_metric`.

    Args:
        upstream: where features come from.
        learning_rate: of Adam.
        network: sizes.
        decoding: the search of validation, test and prediction.
        ctc_weight: share of CTC on the encoder in the loss; 0 for the decoder alone.
        smoothing: of the decoder's targets, over all outputs.
        settings: see `Task`.

    Attributes:
        special: number of outputs, the blank first, that stand for no unit of text.
        end: index of the end symbol, one of the special ones.
    """

    answer: ClassVar[Answer | None] = "text"
    cache_level: ClassVar[Level | None] = "frame"
    special: ClassVar[int]
    end: ClassVar[int]
    unknown: ClassVar[int | None] = None  # a special output that answers may have: what the head has no label for

    _decoded: tuple[Tensor, list[Found]] | None = None  # the last outputs, and the answers that were found in them

    def __init__(
        self,
        upstream: Upstream,
        learning_rate: float,
        network: NetworkSize = NetworkSize(),  # noqa: B008 - frozen
        decoding: Decoding = Decoding(),  # noqa: B008 - frozen
        ctc_weight: float = 0.0,
        smoothing: float = 0.1,
        **settings: Any,
    ) -> None:
        super().__init__(upstream, learning_rate, **settings)
        network.check()
        decoding.check()
        if not 0 <= ctc_weight <= 1:
            raise UserError(f"model.ctc_weight: {ctc_weight}; give a number from 0 to 1")
        if not 0 <= smoothing < 1:
            raise UserError(f"model.smoothing: {smoothing}; give a number from 0 to below 1")
        if decoding.ctc_weight and not ctc_weight:
            raise UserError(
                f"model.decoding.ctc_weight: {decoding.ctc_weight}, but model.ctc_weight 0 trains no CTC; set one or the other"
            )
        if ctc_weight == 1 != decoding.ctc_weight:
            raise UserError(
                "model.ctc_weight 1 trains no decoder, with which the search would answer; set model.decoding.ctc_weight: 1, too"
            )
        self.network, self.decoding = network, decoding
        self.ctc_weight, self.smoothing = ctc_weight, smoothing

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_decoded": None}

    def build_head(self, dim: int) -> None:
        if self.ctc_weight == 1 and len(self.labels) > self.decoding.candidates + 1:
            raise UserError(
                f"model.decoding.candidates: {self.decoding.candidates} of {len(self.labels)} outputs, chosen by a decoder that "
                f"model.ctc_weight 1 does not train; set it to {len(self.labels)}"
            )
        barred = tuple(number for number in range(self.special) if number not in (self.end, self.unknown))
        self.head = EncoderDecoder(
            dim, len(self.labels), self.network, self.end, barred, self.ctc_weight > 0, self.smoothing
        )

    def outputs(self, features: Tensor, lengths: Tensor) -> Tensor:
        """Hidden states of the encoder, `(batch, self.head.frames(lengths), width)`."""
        return self.head.encode(features, lengths)

    def loss(self, outputs: Tensor, lengths: Tensor, targets: Targets) -> Tensor:
        """Smoothed cross-entropy and CTC, weighted, in nats, summed over labels; mean over utterances."""
        losses = self.head.losses(outputs, self.head.frames(lengths), targets)
        if losses.ctc is None:
            return losses.attention.mean()
        return ((1 - self.ctc_weight) * losses.attention + self.ctc_weight * losses.ctc).mean()

    def _counted(self, lengths: Tensor, batch: TaskBatch) -> int | Tensor:
        return len(batch.keys)

    def limits(self, lengths: Tensor) -> Tensor:
        """Most labels of an answer, int64 `(batch,)`, from valid frames."""
        return (lengths * (LABELS_PER_SECOND / self.upstream.frame_rate)).long() + SPARE_LABELS

    def answers_of(
        self,
        outputs: Tensor,
        lengths: Tensor,
        count: int = 1,
        further: tuple[tuple[float, Scorer], ...] = (),
    ) -> list[list[Found]]:
        """The best label sequences of each utterance, best first: at least one, at most `count`.

        `further` are weights and scores of this batch beside decoder and CTC.
        """
        return self.head.search(
            outputs, self.head.frames(lengths), self.decoding, self.limits(lengths), nbest=count, further=further
        )

    def decode(self, outputs: Tensor, lengths: Tensor) -> list[str]:
        """The text of each utterance by beam search (`model.decoding`)."""
        return [self.spell(list(best.labels)) for best in self.best_answers(outputs, lengths)]

    def best_answers(self, outputs: Tensor, lengths: Tensor) -> list[Found]:
        """The best answer of each utterance by beam search (`model.decoding`)."""
        # The metrics, the scores of utterances and what is shown ask for the same search.
        if self._decoded is None or self._decoded[0] is not outputs:
            self._decoded = outputs, [best for best, *_ in self.answers_of(outputs, lengths)]
        return self._decoded[1]

    def readable(self, outputs: Tensor, lengths: Tensor) -> list[dict[str, Any]]:
        """The answer of each recording, `nbest` of them if asked for; `cut` says that its end may be missing.

        With several answers the search goes on for longer, and may find a better first one.
        """
        if self.nbest > 1:
            found = self.answers_of(outputs, lengths, self.nbest)
        else:
            found = [[best] for best in self.best_answers(outputs, lengths)]
        rows: list[dict[str, Any]] = []
        for answers in found:
            rows.append({self.text_key: self.spell(list(answers[0].labels))})
            if answers[0].cut:
                rows[-1]["cut"] = True
            if self.nbest > 1:
                rows[-1]["nbest"] = listed(self.texts_of(answers), self.text_key)
        return rows

    def best_texts(self, outputs: Tensor, lengths: Tensor, count: int) -> list[list[Hypothesis]]:
        """The best different texts of each utterance; the beam holds at least `count`. Scores as `Decoding` says."""
        return [self.texts_of(found) for found in self.answers_of(outputs, lengths, count)]

    def texts_of(self, answers: Sequence[Found]) -> list[Hypothesis]:
        """The different texts of answers, each with its best score; the best first, as the answers."""
        scores: dict[str, float] = {}
        for answer in answers:
            scores.setdefault(self.spell(list(answer.labels)), answer.score)
        return [Hypothesis(*each) for each in scores.items()]

    def heard(self, inputs: Any, window: float) -> tuple[Tensor, Tensor]:
        """As every head, but whole recordings alone: an attention decoder loses its place in long ones."""
        if window:
            raise UserError(
                f"{self.name}: a recording of more than {window:g} s, and an attention decoder answers for what is as long as "
                "its training; cut it at pauses, or hear it whole with `wavlm predict --window 0`"
            )
        return self(inputs)

    def on_validation_epoch_end(self) -> None:
        super().on_validation_epoch_end()
        self._decoded = None

    def on_test_epoch_end(self) -> None:
        super().on_test_epoch_end()
        self._decoded = None
