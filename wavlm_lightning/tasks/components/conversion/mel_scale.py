"""Mean and spread of the log-mel frames of a corpus, by which a network predicts them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
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

    @property
    def fitted(self) -> bool:
        """Whether they are those of a corpus."""
        return bool(self.mean.any())

    @torch.no_grad()
    def fit(self, split: Split, factor: float = 1.0) -> None:
        """Take them from half an hour of a split, whose waveforms are multiplied by `factor`."""
        count, total, squares = (
            0,
            torch.zeros(MEL_BINS, dtype=torch.float64),
            torch.zeros(MEL_BINS, dtype=torch.float64),
        )
        for waveform in spread(split, SECONDS, factor):
            mel = synthesis_mel(waveform[None], self.hop)[0].double()
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
        """Frames of each waveform, int64 `(batch,)`, from its number of samples."""
        return (samples - 400).div(self.hop, rounding_mode="floor") + 1


def spread(split: Split, seconds: float, factor: float) -> Iterator[Tensor]:
    """Whole utterances from everywhere in a split, the same each time, at most so much audio; one at least.

    Waveforms are `(samples,)`, multiplied by `factor`.
    """
    order = np.random.default_rng(0).permutation(len(split))
    count = int((split.samples[order].cumsum() <= seconds * SAMPLE_RATE).sum())
    for number in np.sort(order[: max(1, count)]):
        shard, place = split.locate(int(number))
        yield torch.from_numpy(shard.waveform(place) * np.float32(factor))
