"""Distance of a waveform from the true one in spectra of several resolutions, for vocoders trained without a discriminator."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.audio import synthesis_mel

# Samples of the windows, whose hops are a quarter of them: on two cores a third of the time of Parallel WaveGAN's three.
WINDOWS = (256, 512, 1024, 2048)
FLOOR = 1e-3  # smallest amplitude before the logarithm: rounding noise of 16 bit in a window


def mel_distance(heard: Tensor, wanted: Tensor, lengths: Tensor, hop: int) -> Tensor:
    """Mean absolute difference of `synthesis_mel`, natural logarithms, of each row: `(batch,)`.

    Args:
        heard: waveforms `(batch, samples)`, zeros in the padding, as in `wanted`.
        wanted: the true waveforms.
        lengths: samples of each row, int64 `(batch,)`.
        hop: samples between frames.
    """
    differences = (synthesis_mel(heard, hop) - synthesis_mel(wanted, hop)).abs().mean(2)
    frames = (lengths - 400).div(hop, rounding_mode="floor") + 1
    inside = torch.arange(differences.shape[1], device=lengths.device) < frames[:, None]
    return (differences * inside).sum(1) / frames


class SpectralDistance(nn.Module):
    """Spectral convergence and mean absolute difference of logarithms of amplitudes, mean over resolutions.

    Yamamoto et al., Parallel WaveGAN (arXiv 1910.11480), equations 4 to 6, with resolutions of our own.

    Args:
        windows: samples of the Hann window of each spectrum.
    """

    def __init__(self, windows: tuple[int, ...] = WINDOWS) -> None:
        super().__init__()
        self.windows = windows
        for size in windows:
            self.register_buffer(f"window{size}", torch.hann_window(size), persistent=False)

    def forward(self, heard: Tensor, wanted: Tensor, lengths: Tensor) -> Tensor:
        """Of each row, `(batch,)`, whatever its padding; the arguments are those of `mel_distance`."""
        total = torch.zeros(len(heard), device=heard.device)
        for window in self.windows:
            frames = lengths.div(window // 4, rounding_mode="floor") + 1
            ours, true = (self._amplitudes(each, window, frames) for each in (heard, wanted))
            size = true.square().sum((1, 2)).sqrt()
            quiet = FLOOR * (frames * true.shape[1]).sqrt()
            convergence = (ours - true).square().sum((1, 2)).clamp(min=1e-12).sqrt() / (size + quiet)
            logarithms = (ours.clamp(min=FLOOR).log() - true.clamp(min=FLOOR).log()).abs().sum((1, 2))
            total = total + convergence + logarithms / (frames * true.shape[1])
        return total / len(self.windows)

    def _amplitudes(self, waveforms: Tensor, size: int, frames: Tensor) -> Tensor:
        """Amplitudes `(batch, bins, frames)`, zero beyond the frames of a row that it has alone, `(batch,)`."""
        window = getattr(self, f"window{size}")
        spectrum = torch.stft(
            waveforms.float(), size, size // 4, window=window, pad_mode="constant", return_complex=True
        )
        inside = torch.arange(spectrum.shape[2], device=frames.device) < frames[:, None]
        # The slope of the root is infinite at zero.
        return (spectrum.real.square() + spectrum.imag.square()).clamp(min=1e-12).sqrt() * inside[:, None]
