"""Span masking: which frames are replaced by the mask embedding in pre-training (wav2vec 2.0, HuBERT, WavLM)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavlm_lightning.encoder import padding_mask


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
        span: frames per span.
        minimum: fewest spans per utterance.
        equalise: thin rows to the smallest masked count of the batch.

    Example:
        >>> SpanMasking()(torch.tensor([780, 700]), 780).float().mean()
        tensor(0.53)
    """

    probability: float = 0.8
    span: int = 10
    minimum: int = 2
    equalise: bool = True

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
        count = (self.probability * lengths / self.span + draw).floor().long().clamp(min=self.minimum)
        # Starts lie in {0, ..., T - span - 1}; in short rows the range is widened so that there is a start for each span.
        room = torch.maximum(lengths - self.span, count + 1).clamp(min=1)
        room = torch.minimum(room, lengths)
        score = torch.rand(batch, frames, device=device, generator=generator)
        score = score.masked_fill(padding_mask(room, frames), -1.0)
        rank = score.argsort(1, descending=True).argsort(1)
        starts = (rank < count[:, None]) & (score >= 0)
        # A frame is masked if a span began at it or at one of the `span - 1` frames before it.
        begun = starts.cumsum(1)
        before = torch.nn.functional.pad(begun, (self.span, 0))[:, :frames]
        mask = (begun > before) & ~padding_mask(lengths, frames)
        return self._thin(mask, generator) if self.equalise and batch > 1 else mask

    @staticmethod
    def _thin(mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """Keep a random subset of the masked frames in each row, as many as the row with the fewest has."""
        score = torch.rand(mask.shape, device=mask.device, generator=generator).masked_fill(~mask, -1.0)
        rank = score.argsort(1, descending=True).argsort(1)
        return mask & (rank < mask.sum(1).min())
