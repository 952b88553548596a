"""Mean and spread of the log-mel frames of a corpus, by which a network predicts them."""

from __future__ import annotations

from itertools import islice

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import MEL_BINS, SAMPLE_RATE, synthesis_mel
from wavlm_lightning.data.split import Split

SECONDS = 1800.0  # of a corpus, from which they are taken
SMALLEST = 1e-3  # spread of a bin that never changes


class MelScale(nn.Module):
    """`audio.synthesis_mel` with every bin at mean 0 and variance 1 over the frames of a corpus; kept in the checkpoint.

    Args:
        hop: samples between frames.
    """

    mean: Tensor
    spread: Tensor

    def __init__(self, hop: int) -> None:
        super().__init__()
        self.hop = hop
        self.register_buffer("mean", torch.zeros(MEL_BINS))
        self.register_buffer("spread", torch.ones(MEL_BINS))

    @torch.no_grad()
    def fit(self, split: Split, factor: float = 1.0) -> None:
        """Take them from the first half hour of a split, whose waveforms are multiplied by `factor`."""
        count, total, squares = (
            0,
            torch.zeros(MEL_BINS, dtype=torch.float64),
            torch.zeros(MEL_BINS, dtype=torch.float64),
        )
        for _, waveform, _ in islice(split.utterances(), within(split, SECONDS)):
            mel = synthesis_mel(torch.from_numpy(waveform)[None] * factor, self.hop)[0].double()
            count, total, squares = count + len(mel), total + mel.sum(0), squares + mel.square().sum(0)
        mean = total / count
        self.mean.copy_(mean)
        self.spread.copy_((squares / count - mean.square()).clamp(min=SMALLEST**2).sqrt())

    def of(self, waveforms: Tensor) -> Tensor:
        """Scaled frames `(batch, frames, 80)` of waveforms `(batch, samples)`."""
        return (synthesis_mel(waveforms, self.hop) - self.mean) / self.spread

    def restored(self, frames: Tensor) -> Tensor:
        """The log-mel frames that scaled ones stand for."""
        return frames.float() * self.spread + self.mean

    def count(self, samples: Tensor) -> Tensor:
        """Frames of waveforms of so many samples, int64 `(batch,)`."""
        return (samples - 400).div(self.hop, rounding_mode="floor") + 1


def within(split: Split, seconds: float) -> int:
    """Utterances at the beginning of a split that last at most so long; one at least."""
    return max(1, int((split.samples.cumsum() <= seconds * SAMPLE_RATE).sum()))
