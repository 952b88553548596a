"""Base of upstreams with a wav2vec 2.0 architecture from other libraries, independent of padding."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.encoder import Layers, padding_mask
from wavlm_lightning.encoder.frontend import normalize_waveforms
from wavlm_lightning.system.errors import UserError
from wavlm_lightning.upstreams.base import Upstream


class WaveformEncoder(Upstream):
    """Convolutions over the waveform, then a transformer (wav2vec 2.0, arXiv 2006.11477, section 2).

    Each row of a batch gets the output it would get alone. In models with group norm, which averages over time, the
    convolutions run row by row; the transformer runs on the padded batch and attends to valid frames only. Waveforms are
    normalised as in fairseq and s3prl, over the unpadded utterance and with 1e-5 added to the variance; the 1e-7 of
    Hugging Face's feature extractor differs only near silence.

    A subclass sets `label`, `dim` and `num_layers`, calls `describe_convolutions` and `freeze`, and implements
    `convolve` and `transform`.

    Attributes:
        normalize: whether waveforms get zero mean and unit variance first.
    """

    normalize: bool

    def describe_convolutions(self, convolutions: Sequence[tuple[int, int]], front_end: nn.Module) -> None:
        """Set the frame rate, and whether rows must be convolved one by one; each layer has (kernel, stride)."""
        self.convolutions = tuple(convolutions)
        self.frame_rate = SAMPLE_RATE / math.prod(stride for _, stride in convolutions)
        self.shortest = 1
        for kernel, stride in reversed(self.convolutions):
            self.shortest = (self.shortest - 1) * stride + kernel
        self.averages_over_time = any(isinstance(module, nn.GroupNorm) for module in front_end.modules())

    @abstractmethod
    def convolve(self, waveforms: Tensor) -> Tensor:
        """Waveforms `(batch, samples)`, all valid, to `(batch, frames, channels)`."""

    @abstractmethod
    def transform(self, features: Tensor, padding: Tensor) -> list[Tensor]:
        """Convolved features `(batch, frames, channels)` to the hidden states, each `(batch, frames, dim)`.

        These are the input of every block, then the encoder's output (after the final norm, if there is one). Values where
        `padding` `(batch, frames)` is true are arbitrary. s3prl's `upstream/hubert/expert.py` hooks the same places.
        """

    def frames(self, lengths: Tensor) -> Tensor:
        for kernel, stride in self.convolutions:
            lengths = (lengths - kernel) // stride + 1
        return lengths

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:
        """All hidden states, `(layers + 1, batch, frames, dim)`, zero where a frame is padding."""
        samples = lengths.tolist()
        if min(samples) < self.shortest:
            raise UserError(
                f"an utterance of {min(samples)} samples is shorter than the {self.shortest} that {self.label} needs "
                "for one frame"
            )
        lengths = lengths.to(waveforms.device)
        waveforms = waveforms[:, : max(samples)]
        if self.normalize:
            silent = waveforms.masked_fill(padding_mask(lengths, waveforms.shape[1]), 0.0)
            waveforms = normalize_waveforms(silent, lengths)
        waveforms = waveforms.to(next(self.parameters()).dtype)
        if self.averages_over_time and min(samples) < max(samples):
            rows = [self.convolve(row[None, :length])[0] for row, length in zip(waveforms, samples, strict=True)]
            features = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        else:
            # These convolutions do not pad and have no norm over time, so no valid frame sees the padding of its row.
            features = self.convolve(waveforms)
        frames = self.frames(lengths)
        padding = padding_mask(frames, features.shape[1])
        hidden = torch.stack(self.transform(features, padding))
        return Layers(hidden.masked_fill(padding[None, :, :, None], 0.0), frames, self.frame_rate)
