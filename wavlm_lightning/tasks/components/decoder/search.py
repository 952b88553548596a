"""Beam search label by label over a Transformer decoder, with further scores such as CTC's or a language model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from wavlm_lightning.system.errors import UserError
from wavlm_lightning.tasks.components.decoder.transformer import TransformerDecoder

NEVER = -float("inf")


@dataclass(frozen=True)
class Decoding:
    """Width of the beam and weights of the scores.

    The score of an answer is `(1 - ctc_weight) log p(attention) + ctc_weight log p(CTC)`, plus further weighted scores (arXiv
    1609.06773; ESPnet), divided by a power of its labels.

    Args:
        beam: hypotheses kept after each label; 1 is the greedy search. 20 in s3prl's speech translation, 10 in ESPnet.
        ctc_weight: of the CTC prefix score; 0 for the decoder alone, 1 for CTC alone.
        length_power: the score is divided by the number of labels, the end among them, to this power. 1 in fairseq, 0 in ESPnet;
            with 0 the decoder alone likes short answers.
        candidates: labels beside the end that may continue a hypothesis, the best of the decoder; all if there are no more.
    """

    beam: int = 5
    ctc_weight: float = 0.0
    length_power: float = 0.0
    candidates: int = 64

    def check(self) -> None:
        """Raises a `UserError` for values without a meaning."""
        for name in ("beam", "candidates"):
            if getattr(self, name) < 1:
                raise UserError(f"model.decoding.{name}: {getattr(self, name)}; a search needs at least 1")
        if not 0 <= self.ctc_weight <= 1:
            raise UserError(f"model.decoding.ctc_weight: {self.ctc_weight}; give a number from 0 to 1")
        if self.length_power < 0:
            raise UserError(f"model.decoding.length_power: {self.length_power}; give 0 or more")


class Found(NamedTuple):
    """An answer of the search."""

    labels: tuple[int, ...]  # without the end
    score: float  # natural logarithm, as `Decoding` says
    cut: bool  # whether it has as many labels as it may have, so that more might follow


class Scorer(Protocol):
    """A score of hypotheses beside that of the decoder, for one batch; at first there is one without labels for each row."""

    def scores(self, candidates: Tensor) -> Tensor:
        """Score of each hypothesis with one more label; both `(batch, hypotheses, candidates)`. The end is a candidate, too."""

    def advance(self, hypotheses: Tensor, labels: Tensor) -> None:
        """Go on with these `hypotheses`, each with one more of the `labels`, int64 `(batch, kept)`."""

    def keep(self, utterances: Tensor) -> None:
        """Go on with some utterances of the batch, by their rows."""


def beam_search(
    decoder: TransformerDecoder,
    memory: Tensor,
    lengths: Tensor,
    decoding: Decoding,
    limits: Tensor,
    end: int,
    barred: Sequence[int] = (),
    scorers: Sequence[tuple[float, Scorer]] = (),
    nbest: int = 1,
) -> list[list[Found]]:
    """The best answers of each utterance, best first: at least one, at most `nbest`.

    After each label the best continuations of all hypotheses are kept. Those among the best `beam` that end are answers; the
    search of an utterance stops once nothing that goes on is better than the answers it has. Without `length_power` a
    hypothesis only gets worse, and the rule loses nothing.

    Args:
        decoder: in eval mode.
        memory: the encoder's hidden states `(batch, frames, width)`.
        lengths: valid frames of each row, `(batch,)`.
        decoding: width of the beam and weights.
        limits: most labels of an answer, int64 `(batch,)`; at the limit a hypothesis must end.
        end: number of the end symbol, with which the decoder also begins.
        barred: labels that no answer has.
        scorers: weights and further scores.
        nbest: answers of each utterance.
    """
    decoding.check()
    batch, beam = len(memory), max(decoding.beam, nbest)
    device, share = memory.device, 1.0 - decoding.ctc_weight
    found: list[list[Found]] = [[] for _ in range(batch)]
    rows = torch.arange(batch, device=device)  # the utterances that still go on
    labels = torch.full((batch, 1, 1), end, device=device)  # of each hypothesis, the begin first
    heard = memory.new_zeros(batch, 1, dtype=torch.float32)  # log-probability of the decoder
    alive = torch.ones_like(heard, dtype=torch.bool)
    others = torch.arange(decoder.classifier.out_features, device=device) != end
    state = decoder.start(memory, lengths)
    for place in range(int(limits.max()) + 1):
        logits, state = decoder.step(labels[..., -1], state)
        following = logits.float().log_softmax(-1)
        following[..., list(barred)] = NEVER
        # At its limit an utterance has no candidate but the end.
        stopped = (limits[rows] <= place)[:, None, None]
        following = following.masked_fill(stopped & others, NEVER)
        candidates = _candidates(following, decoding.candidates, end)
        taken = following.gather(2, candidates)
        own = heard[..., None] + taken
        total = share * own if share else torch.zeros_like(own)
        for weight, scorer in scorers:
            total = total + weight * scorer.scores(candidates).to(total.dtype)
        total = total.masked_fill((taken == NEVER) | ~alive[..., None], NEVER)
        if total.isnan().any():
            raise UserError("a search has scores that are no numbers: the head has diverged in training")

        count = min(2 * beam, total[0].numel())
        scores, places = total.flatten(1).topk(count, 1)
        parents, chosen = places // candidates.shape[2], candidates.flatten(1).gather(1, places)
        ended = chosen == end
        _collect(
            found, rows, labels, parents, (ended & (scores > NEVER))[:, :beam], scores, limits, decoding.length_power
        )

        # The best that go on, in order; `sort` is stable.
        order = ended.long().sort(dim=1, stable=True).indices[:, :beam]
        scores = scores.masked_fill(ended, NEVER).gather(1, order)
        parents, chosen = parents.gather(1, order), chosen.gather(1, order)
        alive = scores > NEVER
        best = (scores[:, 0] / (place + 1) ** decoding.length_power).tolist()
        going = [n for n, row in enumerate(rows.tolist()) if not _done(found[row], best[n], nbest)]
        if not going:
            break
        heard = own.flatten(1).gather(1, places).gather(1, order)
        labels = torch.cat([labels.gather(1, parents[..., None].expand(-1, -1, place + 1)), chosen[..., None]], 2)
        hypotheses = _state_rows(parents, own.shape[1])
        if len(going) < len(rows):
            kept = torch.tensor(going, device=device)
            rows, labels, heard, alive = rows[kept], labels[kept], heard[kept], alive[kept]
            parents, chosen = parents[kept], chosen[kept]
            state = state.utterances(kept, hypotheses[kept].flatten())
            for _, scorer in scorers:
                scorer.keep(kept)
        else:
            state = state.chosen(hypotheses.flatten())
        for _, scorer in scorers:
            scorer.advance(parents, chosen)
    return [sorted(answers, key=lambda answer: -answer.score)[:nbest] or [Found((), NEVER, False)] for answers in found]


def _state_rows(parents: Tensor, hypotheses: int) -> Tensor:
    """Rows of hypotheses `(batch, kept)` in tensors whose rows are those of all utterances, `hypotheses` each."""
    return parents + hypotheses * torch.arange(len(parents), device=parents.device)[:, None]


def _candidates(following: Tensor, most: int, end: int) -> Tensor:
    """Labels that may continue each hypothesis, `(batch, hypotheses, candidates)`, the end always among them."""
    outputs = following.shape[-1]
    if outputs <= most + 1:
        return torch.arange(outputs, device=following.device).expand_as(following)
    ranked = following.clone()
    ranked[..., end] = float("inf")
    return ranked.topk(most + 1, -1).indices


def _collect(
    found: list[list[Found]],
    rows: Tensor,
    labels: Tensor,
    parents: Tensor,
    ended: Tensor,
    scores: Tensor,
    limits: Tensor,
    power: float,
) -> None:
    """Add the hypotheses that end to the answers of their utterances."""
    number = labels.shape[2]  # with the begin as many as with the end
    for row, column in ended.nonzero().tolist():
        utterance = int(rows[row])
        answer = tuple(labels[row, parents[row, column], 1:].tolist())
        score = float(scores[row, column]) / number**power
        found[utterance].append(Found(answer, score, len(answer) >= int(limits[utterance])))


def _done(answers: list[Found], best: float, nbest: int) -> bool:
    """Whether nothing that goes on, at best with this score, can be among the answers."""
    if best == NEVER:
        return True
    return len(answers) >= nbest and sorted((a.score for a in answers), reverse=True)[nbest - 1] >= best
