"""Search of spoken queries in documents: feature normalisation, scores and ground truth (QbE)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from wavlm_lightning.tasks.search.subsequence_dtw import Distance, pack_queries, subsequence_costs

DEVIATION_FLOOR = 1e-9
SHORTEST = 5  # queries with fewer frames score 0 in every document, as in s3prl


@dataclass(frozen=True)
class FeatureMoments:
    """Sums over frames in double precision, for every layer and dimension; they add up with `+`."""

    frames: int
    total: Tensor  # sum of the frames, float64 `(layers, dim)`
    squares: Tensor  # sum of their squares, float64 `(layers, dim)`

    @classmethod
    def of(cls, frames: Tensor) -> FeatureMoments:
        """The moments of one utterance, from `(layers, frames, dim)`."""
        # Apple's GPUs lack double precision.
        wide = (frames if frames.is_cuda else frames.cpu()).double()
        return cls(frames.shape[1], wide.sum(1), wide.square().sum(1))

    def __add__(self, other: FeatureMoments) -> FeatureMoments:
        return FeatureMoments(self.frames + other.frames, self.total + other.total, self.squares + other.squares)

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Mean and unbiased standard deviation, at least 1e-9; float32 `(layers, dim)`."""
        mean = self.total / self.frames
        variance = (self.squares - self.total * mean).clamp(min=0) / max(self.frames - 1, 1)
        return mean.float(), variance.sqrt().clamp(min=DEVIATION_FLOOR).float()


class TermSearch:
    """The queries of one split, searched in any document (one run of s3prl's `downstream/quesst14_dtw`).

    On the CPU compiled loops search on all cores (`compiled_dtw`), on other devices torch does (`subsequence_dtw`).

    Args:
        queries: hidden states of each query, `(frames, layers, dim)`.
        terms: the term of each query, int64 `(queries,)`.
        moments: of the frames of these queries and of all documents; they normalise the features.
        distance: see `wavlm_lightning.tasks.search.subsequence_dtw`.
    """

    def __init__(self, queries: Sequence[Tensor], terms: Tensor, moments: FeatureMoments, distance: Distance) -> None:
        self.mean, self.deviation = (value.to(queries[0].device) for value in moments.statistics())
        normalised = [(query - self.mean) / self.deviation for query in queries]
        self.costs: Callable[[Tensor, Tensor], Tensor]
        if queries[0].device.type == "cpu":
            from wavlm_lightning.tasks.search.compiled_dtw import CompiledQueries  # numba takes a second to import

            self.costs = CompiledQueries(normalised, distance).costs
        else:
            self.costs = partial(subsequence_costs, pack_queries(normalised, distance), distance=distance)
        self.short = torch.tensor([len(query) < SHORTEST for query in queries], device=queries[0].device)
        self.terms = terms

    def scores(self, documents: Tensor, lengths: Tensor) -> Tensor:
        """Scores up to 0, `(documents, layers, queries)`, in hidden states `(layers, documents, frames, dim)`."""
        documents = (documents - self.mean[:, None, None]) / self.deviation[:, None, None]
        return -self.costs(documents, lengths).masked_fill(self.short[:, None], 0).permute(2, 0, 1)

    def truth(self, terms: Tensor, lengths: Tensor) -> Tensor:
        """Whether each document, with terms `(documents, most)` of which `lengths` are valid, holds each query.

        Returns bool `(documents, queries)`.
        """
        valid = torch.arange(terms.shape[1], device=terms.device)[None, :] < lengths[:, None]
        return ((terms[:, :, None] == self.terms) & valid[:, :, None]).any(1)


class Findings(Metric):
    """Collects the scores and the ground truth of each document."""

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
