"""Which frames the encoder must guess."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavlm_lightning.encoder import padding_mask


@dataclass(frozen=True)
class SpanMasking:
    """Spans of frames, drawn as wav2vec 2.0 and HuBERT draw them, without a loop over utterances.

    An utterance of T frames gets `floor(probability * T / span + U(0, 1))` spans (at least `minimum`) whose starts
    are drawn without replacement; spans may overlap; then every row is thinned, frame by frame at random, to the
    smallest masked count of the batch.

    Source: wav2vec 2.0, arXiv 2006.11477, section 3.1; fairseq `compute_mask_indices` (static length, overlaps).

    Args:
        probability: share of frames that would be masked if spans never overlapped: 0.8 in HuBERT and WavLM,
            0.65 in wav2vec 2.0. The masked share is about 1 - (1 - probability / span) ** span.
        span: frames of a span.
        minimum: spans an utterance has at least.
        equalise: thin rows to the smallest count of the batch.

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
            generator: where randomness comes from, on the device of `lengths`.

        Returns:
            bool `(batch, frames)`, true where the encoder must guess; never true on padding.
        """
        batch, device = len(lengths), lengths.device
        draw = torch.rand(batch, device=device, generator=generator)
        count = (self.probability * lengths / self.span + draw).floor().long().clamp(min=self.minimum)
        # Starts lie in {0, ..., T - span - 1}; in short rows the range widens so that all spans find a place.
        room = torch.maximum(lengths - self.span, count + 1).clamp(min=1)
        room = torch.minimum(room, lengths)
        score = torch.rand(batch, frames, device=device, generator=generator)
        score = score.masked_fill(padding_mask(room, frames), -1.0)
        rank = score.argsort(1, descending=True).argsort(1)
        starts = (rank < count[:, None]) & (score >= 0)
        # A frame is masked if a span began within the last `span` frames.
        begun = starts.cumsum(1)
        before = torch.nn.functional.pad(begun, (self.span, 0))[:, :frames]
        mask = (begun > before) & ~padding_mask(lengths, frames)
        return self._thin(mask, generator) if self.equalise and batch > 1 else mask

    @staticmethod
    def _thin(mask: Tensor, generator: torch.Generator | None) -> Tensor:
        """Keep as many masked frames in each row as the row with fewest has, chosen at random."""
        score = torch.rand(mask.shape, device=mask.device, generator=generator).masked_fill(~mask, -1.0)
        rank = score.argsort(1, descending=True).argsort(1)
        return mask & (rank < mask.sum(1).min())
