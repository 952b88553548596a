"""Waveforms to spectrograms and back, and the features of an encoder at the frames of a spectrogram."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import SAMPLE_RATE
from wavlm_lightning.audio.mel import FRAME_CENTRE
from wavlm_lightning.system.errors import UserError


class Stft(nn.Module):
    """The short-time Fourier transform with a periodic Hann window, and its inverse.

    Frame t is centred at sample `t * hop`. Behind a waveform come zeros, so that its spectrogram is the same alone and in a
    batch, and frames go on until the last sample is under a window, so that the inverse gives back every sample.

    Args:
        window: samples of the window.
        hop: samples between two frames.
        size: samples of the transform, zeros beside the window; `window` if left out.

    Raises:
        UserError: the windows do not overlap, so that some samples would be lost.

    Example:
        >>> stft = Stft(512, 320)
        >>> spectrogram = stft(torch.randn(2, 16000))
        >>> spectrogram.shape, stft.inverse(spectrogram, 16000).shape
        (torch.Size([2, 52, 257]), torch.Size([2, 16000]))
    """

    window: Tensor

    def __init__(self, window: int, hop: int, size: int | None = None) -> None:
        super().__init__()
        self.size = window if size is None else size
        if not 0 < hop < window <= self.size:
            raise UserError(
                f"an STFT with windows of {window} samples, {hop} samples apart, in transforms of {self.size}: give a hop "
                "below the window and a window that fits into the transform"
            )
        self.hop = hop
        self.register_buffer("window", torch.hann_window(window), persistent=False)

    @property
    def bins(self) -> int:
        """Frequencies of a frame, from 0 to half the sample rate."""
        return self.size // 2 + 1

    def frames(self, samples: Tensor) -> Tensor:
        """Frames whose window holds some of the `samples`, int64, of each row."""
        return (samples + len(self.window) // 2 - 1) // self.hop + 1

    def forward(self, waveforms: Tensor) -> Tensor:
        """Spectrograms, complex `(batch, frames, bins)`, of waveforms `(batch, samples)` with zeros in the padding.

        The rows have some frames more than `frames` says, of zeros.
        """
        longer = nn.functional.pad(waveforms.float(), (0, self.size))
        options: dict[str, Any] = {"center": True, "pad_mode": "constant", "return_complex": True}
        return torch.stft(longer, self.size, self.hop, len(self.window), self.window, **options).transpose(1, 2)

    def inverse(self, spectrograms: Tensor, samples: int) -> Tensor:
        """The waveforms `(batch, samples)` whose spectrograms `(batch, frames, bins)` are nearest (Griffin and Lim 1984)."""
        turned = spectrograms.transpose(1, 2)
        return torch.istft(turned, self.size, self.hop, len(self.window), self.window, center=True, length=samples)


def nearest_features(
    features: Tensor, lengths: Tensor, frame_rate: float, frames: int, hop: int, first_centre: int = FRAME_CENTRE
) -> Tensor:
    """The feature that is centred nearest to each frame of a spectrogram, `(batch, frames, dim)`.

    From features `(batch, time, dim)`, valid ones `(batch,)`, their rate in Hz, and the sample at which the first is centred;
    at a higher rate of frames features repeat.
    """
    stride = SAMPLE_RATE / frame_rate
    places = ((hop * torch.arange(frames, device=features.device) - first_centre) / stride).round().long()
    nearest = torch.minimum(places.clamp(min=0)[None], lengths[:, None] - 1)
    return features.gather(1, nearest[:, :, None].expand(-1, -1, features.shape[2]))


def same_number(features: Tensor, lengths: Tensor, frames: int) -> Tensor:
    """Feature t for frame t, zeros where features `(batch, time, dim)` end, as s3prl's separation does; `(batch, frames, dim)`.

    From valid features `(batch,)`.
    """
    inside = torch.arange(features.shape[1], device=features.device) < lengths[:, None]
    whole = torch.where(inside[:, :, None], features, 0.0)
    return nn.functional.pad(whole, (0, 0, 0, frames - features.shape[1]))  # a negative number cuts
