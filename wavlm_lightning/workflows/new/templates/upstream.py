"""MyUpstream: a log spectrogram; replace it by your encoder."""

import torch
from torch import Tensor

from wavlm_lightning.encoder import Layers
from wavlm_lightning.upstreams import Upstream


class MyUpstream(Upstream):
    """Log magnitudes of 25 ms windows every 20 ms; their differences over time are the second layer.

    Args:
        bins: number of frequencies.
        label: its name in tables.
    """

    num_layers, frame_rate = 2, 50.0

    def __init__(self, bins: int = 201, label: str = "my_upstream") -> None:
        super().__init__(frozen=True)
        self.bins = self.dim = bins
        self.label = label
        self.register_buffer("window", torch.hann_window(400), persistent=False)
        self.freeze()  # after all parameters are made: no gradient, always in eval mode

    def settings(self) -> str:  # arguments that change the features; part of the name of the feature cache
        return f"bins={self.bins}"

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:  # (batch, samples) -> (layers, batch, frames, dim)
        # Pad both ends with zeros, so that the features of a row do not depend on how far the batch is padded.
        padded = torch.nn.functional.pad(waveforms, (200, 200))
        spectrum = torch.stft(padded, 400, hop_length=320, window=self.window, center=False, return_complex=True)
        frames = (spectrum.abs()[:, : self.bins] + 1e-3).log().transpose(1, 2)
        change = torch.diff(frames, dim=1, prepend=frames[:, :1])
        return Layers(torch.stack([frames, change]), lengths // 320 + 1, self.frame_rate)
