"""Span masking: which frames are replaced by the mask embedding in pre-training (wav2vec 2.0, HuBERT, WavLM)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.system.errors import UserError


@dataclass(frozen=True)
class SpanMasking:
    """Draws spans of frames like wav2vec 2.0 and HuBERT, without a loop over utterances.

    An utterance of T frames gets `floor(probability * T / span + U(0, 1))` spans (at least `minimum`) whose starts
    are drawn without replacement; spans may overlap; then every row is thinned, frame by frame at random, to the
    smallest masked count of the batch.

    Source: wav2vec 2.0, arXiv 2006.11477, section 3.1; fairseq `compute_mask_indices` (static length, overlaps).

    Args:
        probability: share of frames that would be masked if spans never overlapped: 0.8 in HuBERT and WavLM,
            0.65 in wav2vec 2.0. The masked share is about 1 - (1 - probability / span) ** span.
        span: frames per span; of `uniform` and `geometric` lengths their mean.
        minimum: fewest spans per utterance.
        equalise: thin rows to the smallest masked count of the batch.
        lengths: `fixed`; `uniform`, each span from 1 to 2 * span - 1 frames; or `geometric`, so that many are short and some
            very long. Spans end where the utterance ends.
        spread: each utterance has its own probability, uniform within `probability` +- `spread`; needs `equalise: false`.
        share: exact share of masked frames in every row, rounded down: frames drawn at random are added to the spans or taken
            away, in place of `equalise`. data2vec 2.0 (arXiv 2212.07525) has 0.5 with probability 0.55 and span 5.

    Raises:
        UserError: a value out of its range, or two that exclude each other.

    Example:
        >>> SpanMasking()(torch.tensor([780, 700]), 780).float().mean()
        tensor(0.53)
    """

    probability: float = 0.8
    span: int = 10
    minimum: int = 2
    equalise: bool = True
    lengths: Literal["fixed", "uniform", "geometric"] = "fixed"
    spread: float = 0.0
    share: float | None = None

    # What `MoveValue` may move: read in every step, and right with any value that is accepted.
    moves: ClassVar[tuple[str, ...]] = ("probability", "spread", "share")

    def __post_init__(self) -> None:
        if self.probability < 0 or self.span < 1 or self.minimum < 0:
            raise UserError(
                f"masking: probability and minimum must be 0 or more, and span 1 or more, not {self.probability:g}, "
                f"{self.minimum} and {self.span}"
            )
        if not 0 <= self.spread <= self.probability:
            raise UserError(f"masking.spread must be from 0 to probability, {self.probability:g}, not {self.spread:g}")
        if self.share is not None and not 0 < self.share < 1:
            raise UserError(f"masking.share must lie between 0 and 1, not {self.share:g}; null for that of the spans")
        if self.spread and (self.equalise or self.share is not None):
            raise UserError(
                "masking.spread: equalise and share give all rows one masked count; set equalise: false and share: null, or "
                "spread: 0"
            )

    def expected_share(self) -> float:
        """Share of the frames that are masked, on average over long utterances; thinning takes a little of it.

        With one start in `span / probability` frames a frame is visible if none of those before it has begun a span that
        reaches it: 1 - (1 - p / l) ** l for spans of one length, 57 % for WavLM (wav2vec 2.0, arXiv 2006.11477).
        """
        if self.share is not None:
            return self.share
        distance = np.arange(64 * self.span)  # the longest geometric span that counts: exp(-64)
        reach = {
            "fixed": (distance < self.span).astype(float),
            "uniform": np.clip(1.0 - distance / (2 * self.span - 1), 0.0, None),
            "geometric": (1.0 - 1.0 / self.span) ** distance,
        }[self.lengths]
        drawn = self.probability + self.spread * (np.linspace(-1.0, 1.0, 101) if self.spread else np.zeros(1))
        starts = np.minimum(drawn / self.span, 1.0)
        return float(np.mean(1.0 - np.prod(1.0 - starts[:, None] * reach, axis=1)))

    def __call__(self, lengths: Tensor, frames: int, generator: torch.Generator | None = None) -> Tensor:
        """Draw a mask.

        Args:
            lengths: valid frames of each row, int64 `(batch,)`.
            frames: width of the mask.
            generator: random generator on the device of `lengths`; None for the global one.

        Returns:
            bool `(batch, frames)`, true where a frame is masked; never true on padding.
        """
        batch, device = len(lengths), lengths.device
        draw = torch.rand(batch, device=device, generator=generator)
        probability: Tensor | float = self.probability
        if self.spread:
            own = torch.rand(batch, device=device, generator=generator)
            probability = self.probability + self.spread * (2.0 * own - 1.0)
        count = (probability * lengths / self.span + draw).floor().long().clamp(min=self.minimum)
        # Starts lie in {0, ..., T - span - 1}; in short rows the range is widened so that there is a start for each span.
        room = torch.maximum(lengths - self.span, count + 1).clamp(min=1)
        room = torch.minimum(room, lengths)
        score = torch.rand(batch, frames, device=device, generator=generator)
        score = score.masked_fill(padding_mask(room, frames), -1.0)
        rank = score.argsort(1, descending=True).argsort(1)
        starts = (rank < count[:, None]) & (score >= 0)
        mask = self._reached(starts, generator) & ~padding_mask(lengths, frames)
        if self.share is not None:
            return self._with_share(mask, lengths, generator)
        return self._thin(mask, generator) if self.equalise and batch > 1 else mask

    def _reached(self, starts: Tensor, generator: torch.Generator | None) -> Tensor:
        """The frames that a span covers, `(batch, frames)`, from those at which one begins."""
        frames = starts.shape[1]
        if self.lengths == "fixed":
            # A frame is masked if a span began at it or at one of the `span - 1` frames before it.
            begun = starts.cumsum(1)
            return begun > torch.nn.functional.pad(begun, (self.span, 0))[:, :frames]
        draw = torch.rand(starts.shape, device=starts.device, generator=generator)
        if self.lengths == "uniform":
            length = 1 + (draw * (2 * self.span - 1)).long()
        else:  # the inverse of 1 - (1 - 1 / span) ** length
            length = 1 + (torch.log1p(-draw) / np.log1p(-1.0 / self.span)).long() if self.span > 1 else 1
        place = torch.arange(frames, device=starts.device)
        end = torch.where(starts, place + length, 0)
        return end.cummax(1).values > place

    def _with_share(self, mask: Tensor, lengths: Tensor, generator: torch.Generator | None) -> Tensor:
        """Add or take away frames at random until every row has its share, `(batch, frames)`."""
        wanted = (self.share * lengths).long().clamp(min=1)
        # Masked frames come first, in random order; behind them those that are visible, and last the padding.
        score = torch.rand(mask.shape, device=mask.device, generator=generator) + mask
        score = score.masked_fill(padding_mask(lengths, mask.shape[1]), -1.0)
        return score.argsort(1, descending=True).argsort(1) < wanted[:, None]

    @staticmethod
    def _thin(mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """Keep a random subset of the masked frames in each row, as many as the row with the fewest has."""
        score = torch.rand(mask.shape, device=mask.device, generator=generator).masked_fill(~mask, -1.0)
        rank = score.argsort(1, descending=True).argsort(1)
        return mask & (rank < mask.sum(1).min())
