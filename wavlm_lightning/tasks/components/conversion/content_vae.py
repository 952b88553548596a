"""An autoencoder of log-mel frames with one vector for the voice and one a frame for the content, whose prior knows units."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import MEL_BINS
from wavlm_lightning.encoder import padding_mask
from wavlm_lightning.tasks.components.recurrent import run_both_ways

KERNEL = 5


class Normal(NamedTuple):
    """A normal distribution without correlations: means and logarithms of variances of one shape."""

    mean: Tensor
    log_variance: Tensor

    def drawn(self) -> Tensor:
        return self.mean + torch.randn_like(self.mean) * (0.5 * self.log_variance).exp()

    def divergence(self, other: Normal | None = None) -> Tensor:
        """Kullback-Leibler divergence from `other`, the standard normal by default, summed over the last dimension; in nats."""
        mean = torch.zeros_like(self.mean) if other is None else other.mean
        log_variance = torch.zeros_like(self.mean) if other is None else other.log_variance
        ratio = self.log_variance - log_variance
        squares = (self.mean - mean).square() * (-log_variance).exp()
        return 0.5 * (ratio.exp() + squares - 1 - ratio).sum(-1)


class Spoken(NamedTuple):
    """What the network makes of recordings in training.

    Attributes:
        frames: scaled log-mel frames, `(batch, frames, 80)`.
        content: divergence of the content from its prior, nats a frame, `(batch, frames)`.
        voice: divergence of the voice from the standard normal, nats, `(batch,)`.
    """

    frames: Tensor
    content: Tensor
    voice: Tensor


class ContentVae(nn.Module):
    """Sequential variational autoencoder with a conditional content prior, in the manner of C-DSVAE (arXiv 2205.05227).

    Two convolutions read the log-mel frames. Voice: a bidirectional LSTM, mean over frames, a normal distribution. Content: the
    same from frames without their mean and spread over the recording, a distribution a frame. The prior of the content reads
    the units of the frames (an embedding and a bidirectional LSTM) instead of nothing. The decoder reads drawn content and voice.
    The sizes of C-DSVAE are not published; these, and instance normalisation before the content, are ours.

    Args:
        units: number of units.
        hidden: channels, and cells of the LSTMs in each direction.
        content: dimensions of the content of a frame.
        voice: dimensions of the voice.
    """

    def __init__(self, units: int, hidden: int = 256, content: int = 64, voice: int = 64) -> None:
        super().__init__()
        self.read = nn.ModuleList(
            [nn.Conv1d(width, hidden, KERNEL, padding=KERNEL // 2) for width in (MEL_BINS, hidden)]
        )
        self.voice_recurrent, self.content_recurrent, self.prior_recurrent, self.decoder_recurrent = (
            nn.LSTM(width, hidden, batch_first=True, bidirectional=True)
            for width in (hidden, hidden, hidden, content + voice)
        )
        self.to_voice, self.to_content, self.to_prior = (
            nn.Linear(2 * hidden, 2 * size) for size in (voice, content, content)
        )
        self.embedding = nn.Embedding(units, hidden)
        self.frame = nn.Sequential(nn.Linear(2 * hidden, 2 * hidden), nn.ReLU(), nn.Linear(2 * hidden, MEL_BINS))

    def _read(self, mel: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Hidden frames `(batch, frames, hidden)`, zeros in the padding, and the valid frames `(batch, frames, 1)`."""
        there = ~padding_mask(lengths, mel.shape[1])[:, :, None]
        hidden = mel * there
        for convolution in self.read:
            hidden = convolution(hidden.transpose(1, 2)).transpose(1, 2).relu() * there
        return hidden, there

    def voice_of(self, mel: Tensor, lengths: Tensor) -> Normal:
        """The voice of recordings, `(batch, voice)`, from scaled log-mel frames and valid frames `(batch,)`."""
        hidden, there = self._read(mel, lengths)
        found = run_both_ways(self.voice_recurrent, hidden, lengths) * there
        return _normal(self.to_voice(found.sum(1) / lengths[:, None]))

    def content_of(self, mel: Tensor, lengths: Tensor) -> Normal:
        """What recordings say, `(batch, frames, content)`."""
        hidden, there = self._read(mel, lengths)
        count = lengths[:, None, None]
        hidden = (hidden - hidden.sum(1, keepdim=True) / count) * there
        hidden = hidden / (hidden.square().sum(1, keepdim=True) / count + 1e-5).sqrt()
        return _normal(self.to_content(run_both_ways(self.content_recurrent, hidden, lengths)))

    def prior_of(self, units: Tensor, lengths: Tensor) -> Normal:
        """What units, int64 `(batch, frames)`, let expect: `(batch, frames, content)`."""
        return _normal(self.to_prior(run_both_ways(self.prior_recurrent, self.embedding(units), lengths)))

    def decoded(self, content: Tensor, voice: Tensor, lengths: Tensor) -> Tensor:
        """Scaled log-mel frames `(batch, frames, 80)` of contents `(batch, frames, content)` in voices `(batch, voice)`."""
        both = torch.cat([content, voice[:, None].expand(-1, content.shape[1], -1)], 2)
        return self.frame(run_both_ways(self.decoder_recurrent, both, lengths))

    def forward(self, mel: Tensor, units: Tensor, lengths: Tensor) -> Spoken:
        """Recordings, by their scaled log-mel frames and units, made again from drawn content and voice."""
        voice, content = self.voice_of(mel, lengths), self.content_of(mel, lengths)
        frames = self.decoded(content.drawn(), voice.drawn(), lengths)
        return Spoken(frames, content.divergence(self.prior_of(units, lengths)), voice.divergence())


def _normal(both: Tensor) -> Normal:
    mean, log_variance = both.float().chunk(2, -1)
    return Normal(mean, log_variance.clamp(-10.0, 10.0))  # so that a divergence stays finite
