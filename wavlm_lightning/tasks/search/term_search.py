"""Spoken queries, ready to be looked for in documents, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from wavlm_lightning.tasks.search.compiled_dtw import CompiledQueries
from wavlm_lightning.tasks.search.subsequence_dtw import Distance, pack_queries, subsequence_costs

DEVIATION_FLOOR = 1e-9
SHORTEST = 5
"""Queries of fewer frames score 0 in every document."""


@dataclass(frozen=True)
class FeatureMoments:
    """Sums over frames in double precision, of every layer and dimension; they add up with `+`.

    Attributes:
        frames: how many.
        total: their sum, float64 `(layers, dim)`.
        squares: the sum of their squares, likewise.

    Example:
        >>> mean, deviation = (FeatureMoments.of(document) + FeatureMoments.of(query)).statistics()
    """

    frames: int
    total: Tensor
    squares: Tensor

    @classmethod
    def of(cls, frames: Tensor) -> FeatureMoments:
        """Of the frames of one utterance, `(layers, frames, dim)`."""
        # Apple's GPUs have no double precision.
        wide = (frames if frames.is_cuda else frames.cpu()).double()
        return cls(frames.shape[1], wide.sum(1), wide.square().sum(1))

    def __add__(self, other: FeatureMoments) -> FeatureMoments:
        return FeatureMoments(self.frames + other.frames, self.total + other.total, self.squares + other.squares)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased standard deviation, not under 1e-9; float32 `(layers, dim)`."""
        mean = self.total / self.frames
        variance = (self.squares - self.total * mean).clamp(min=0) / max(self.frames - 1, 1)
        return mean.float(), variance.sqrt().clamp(min=DEVIATION_FLOOR).float()


class TermSearch:
    """The queries of one split against any document; what s3prl's `downstream/quesst14_dtw` does in one run.

    On the CPU compiled loops search on all cores (`compiled_dtw`), elsewhere torch does (`subsequence_dtw`).

    Args:
        queries: hidden states of each, `(frames, layers, dim)`.
        terms: which term each asks for, int64 `(queries,)`.
        moments: of the frames of these queries and of all documents, by which features are normalised.
        distance: see `wavlm_lightning.tasks.search.subsequence_dtw`.
    """

    def __init__(self, queries: Sequence[Tensor], terms: Tensor, moments: FeatureMoments, distance: Distance) -> None:
        self.mean, self.deviation = (value.to(queries[0].device) for value in moments.statistics())
        normalised = [(query - self.mean) / self.deviation for query in queries]
        self.costs: Callable[[Tensor, Tensor], Tensor]
        if queries[0].device.type == "cpu":
            self.costs = CompiledQueries(normalised, distance).costs
        else:
            self.costs = partial(subsequence_costs, pack_queries(normalised, distance), distance=distance)
        self.short = torch.tensor([len(query) < SHORTEST for query in queries], device=queries[0].device)
        self.terms = terms

    def scores(self, documents: Tensor, lengths: Tensor) -> Tensor:
        """How well the queries match, the higher the better, 0 at most.

        Args:
            documents: hidden states `(layers, documents, frames, dim)`.
            lengths: valid frames of each document `(documents,)`.

        Returns:
            `(documents, layers, queries)`.
        """
        documents = (documents - self.mean[:, None, None]) / self.deviation[:, None, None]
        return -self.costs(documents, lengths).masked_fill(self.short[:, None], 0).permute(2, 0, 1)

    def truth(self, terms: Tensor, lengths: Tensor) -> Tensor:
        """Which documents hold which query.

        Args:
            terms: those of each document, int64 `(documents, most)`.
            lengths: how many of them count `(documents,)`.

        Returns:
            bool `(documents, queries)`.
        """
        valid = torch.arange(terms.shape[1], device=terms.device)[None, :] < lengths[:, None]
        return ((terms[:, :, None] == self.terms) & valid[:, :, None]).any(1)


class Findings(Metric):
    """Collects what was found in each document, and what is there."""

    full_state_update = False
    is_differentiable = False
    scores: list[Tensor]
    truth: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", [], dist_reduce_fx="cat")
        self.add_state("truth", [], dist_reduce_fx="cat")

    def update(self, scores: Tensor, truth: Tensor) -> None:
        """Add `(documents, layers, queries)` and bool `(documents, queries)`."""
        self.scores.append(scores)
        self.truth.append(truth)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Scores `(documents, layers, queries)` and truth `(documents, queries)`."""
        return dim_zero_cat(self.scores), dim_zero_cat(self.truth)
