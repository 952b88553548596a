"""MyUpstream: a log spectrogram; change it into your encoder."""

import torch
from torch import Tensor

from wavlm_lightning.encoder import Layers
from wavlm_lightning.upstreams import Upstream


class MyUpstream(Upstream):
    """Log magnitudes of windows of 25 ms every 20 ms, and their differences in time as a second layer.

    Args:
        bins: of the spectrum.
        label: what tables call it.
    """

    num_layers, frame_rate = 2, 50.0

    def __init__(self, bins: int = 201, label: str = "my_upstream") -> None:
        super().__init__(frozen=True)
        self.bins = self.dim = bins
        self.label = label
        self.register_buffer("window", torch.hann_window(400), persistent=False)
        self.freeze()  # after all parameters are made: no gradient, always in eval mode

    def settings(self) -> str:  # what changes the features and is not in the weights: names the feature cache
        return f"bins={self.bins}"

    def layers(self, waveforms: Tensor, lengths: Tensor) -> Layers:  # (batch, samples) -> (layers, batch, frames, dim)
        # Zeros before the first sample and behind the last: what a row gives does not depend on the padding of others.
        padded = torch.nn.functional.pad(waveforms, (200, 200))
        spectrum = torch.stft(padded, 400, hop_length=320, window=self.window, center=False, return_complex=True)
        frames = (spectrum.abs()[:, : self.bins] + 1e-3).log().transpose(1, 2)
        change = torch.diff(frames, dim=1, prepend=frames[:, :1])
        return Layers(torch.stack([frames, change]), lengths // 320 + 1, self.frame_rate)
