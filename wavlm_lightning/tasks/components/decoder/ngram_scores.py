"""Scores of an n-gram model of letters, for the beam search of an encoder-decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from wavlm_lightning.tasks.components.beam_search import NOT_WORDS, BeamSearch


class NgramScores:
    """Log10-probabilities of hypotheses by a model of letters or other units of the head, with begin and end of the sentence.

    Args:
        search: has read the model and knows which output is which of its units.
        special: outputs without a unit; they score as the model's unknown one.
        end: number of the end symbol.
        batch: utterances.
        device: of the scores.
    """

    def __init__(
        self, search: BeamSearch, special: Sequence[int], end: int, batch: int, device: torch.device | str
    ) -> None:
        self.model, units, _ = search.files
        unknown = units.get_index(NOT_WORDS[0])
        self.units = [unknown if n in special else units.get_index(label) for n, label in enumerate(search.labels)]
        self.end, self.device = end, device
        # Of each hypothesis of each utterance: the model's state and the score so far.
        self.kept: list[list[tuple[Any, float]]] = [[(self.model.start(False), 0.0)] for _ in range(batch)]

    def scores(self, candidates: Tensor) -> Tensor:
        """Score of each hypothesis with one more label; both `(batch, hypotheses, candidates)`."""
        found = [
            [
                [score + self._follow(state, label)[1] for label in labels]
                for (state, score), labels in zip(*row, strict=True)
            ]
            for row in zip(self.kept, candidates.tolist(), strict=True)
        ]
        return torch.tensor(found, device=self.device)

    def advance(self, hypotheses: Tensor, labels: Tensor) -> None:
        """Go on with these `hypotheses`, each with one more of the `labels`, int64 `(batch, kept)`."""
        grown: list[list[tuple[Any, float]]] = []
        for row, parents, chosen in zip(self.kept, hypotheses.tolist(), labels.tolist(), strict=True):
            grown.append([])
            for parent, label in zip(parents, chosen, strict=True):
                state, more = self._follow(row[parent][0], label)
                grown[-1].append((state, row[parent][1] + more))
        self.kept = grown

    def keep(self, utterances: Tensor) -> None:
        """Go on with some utterances of the batch, by their rows."""
        self.kept = [self.kept[row] for row in utterances.tolist()]

    def _follow(self, state: Any, label: int) -> tuple[Any, float]:
        return self.model.finish(state) if label == self.end else self.model.score(state, self.units[label])
