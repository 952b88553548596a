"""A front-end without learned spectral analysis: fixed log-mel frames, and a small stack of convolutions over them."""

from __future__ import annotations

import functools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavlm_lightning.encoder.config import MEL_LOWEST, MEL_SHIFT, MEL_WINDOW, SAMPLE_RATE, WavLMConfig, mel
from wavlm_lightning.encoder.layers import padding_mask

MARGIN = (
    MEL_SHIFT // 2
)  # samples that the first window of a frame begins before the frame, and the second ends after it
FLOOR = 1e-8  # of the power in a filter: about that of rounding to 16 bits, so that digital silence sounds like a quiet room

# Mean and spread (nats) of the logarithms over 149 recordings of speech: -4.1 and 4.4; powers of two beside them.
TYPICAL, SPREAD = -4.0, 4.0

AT_ONCE = {
    "cpu": 1 << 11,
    "other": 1 << 16,
}  # windows; a spectrum of 512 points takes 4 kB, and CPUs want it in the cache


class MelConvolution(nn.Module):
    """One convolution over mel frames, layer norm if `conv_norm` is `layer`, exact GELU.

    The last of a front-end joins the two mel frames of a frame of 20 ms (kernel 2, stride 2); those before it have kernel 3
    and keep the frames of 10 ms.

    Args:
        config: sizes of the encoder.
        index: which convolution, from 0.
    """

    def __init__(self, config: WavLMConfig, index: int) -> None:
        super().__init__()
        channels, last = config.mel_channels[index], index == len(config.mel_channels) - 1
        inputs = config.mel_channels[index - 1] if index else config.mel_bins
        kernel, stride, padding = (2, 2, 0) if last else (3, 1, 1)
        self.conv = nn.Conv1d(inputs, channels, kernel, stride, padding, bias=config.conv_bias)
        nn.init.kaiming_normal_(self.conv.weight)
        self.layer_norm = nn.LayerNorm(channels) if config.conv_norm == "layer" else None

    def forward(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """`(batch, steps, channels)` to the same with other channels; `valid` counts the steps of each row, int64 `(batch,)`."""
        if valid is not None and self.conv.padding[0]:  # a row in a batch sees zeros behind its end, as it does alone
            x = x.masked_fill(padding_mask(valid, x.shape[1])[:, :, None], 0.0)
        x = self.conv(x.mT).mT
        return F.gelu(x if self.layer_norm is None else self.layer_norm(x))


class LogMelFrontEnd(nn.Module):
    """Log-mel frames in place of convolutions over the waveform: one frame every 20 ms, on the grid of WavLM's convolutions.

    A mel frame is a Hann window of 25 ms, 10 ms behind the one before it. Frame t of the encoder has the grid window of
    samples [320 t, 320 t + 400), as with convolutions, and takes two mel frames, whose windows start 80 samples before and
    after the grid window; beyond its ends the waveform is zero. Each convolution of kernel 3 widens this by 10 ms on both
    sides. The mel frames have no weights; gradients pass through them to the waveform, if it needs some. They are computed in
    fp32 in every precision.

    Sources: MelHuBERT (arXiv 2211.09944, section 2) trains on pairs of log-mel frames; the filters are triangles of equal
    height on the HTK mel scale, 20 Hz to 8 kHz.

    Args:
        config: sizes of the encoder; `mel_bins`, `mel_channels` and `mel_norm` are those of this class.

    Example:
        >>> LogMelFrontEnd(WavLMConfig.tiny_mel())(torch.randn(2, 16_000)).shape
        torch.Size([2, 49, 256])
    """

    def __init__(self, config: WavLMConfig) -> None:
        super().__init__()
        self.config = config
        self.conv_layers = nn.ModuleList(MelConvolution(config, index) for index in range(len(config.mel_channels)))

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Compute the features.

        Args:
            waveforms: `(batch, samples)` at 16 kHz, zero where a row is padded.
            lengths: valid samples of each row, int64 `(batch,)`; None if every row is full.

        Returns:
            `(batch, frames, channels)`, not normalised over channels: fp32 without convolutions.
        """
        valid = None if lengths is None else 2 * self.config.frames(lengths)
        with torch.autocast(waveforms.device.type, enabled=False):
            x = centred(log_mel_frames(waveforms, self.config.mel_bins), valid, self.config.mel_norm)
        for layer in self.conv_layers:
            x = layer(x.to(layer.conv.weight.dtype), valid)
        return x if len(self.conv_layers) else x.unflatten(1, (-1, 2)).flatten(2)


def log_mel_frames(waveforms: Tensor, bins: int) -> Tensor:
    """Natural logarithm of the power in mel filters, two windows of 25 ms for each frame of the encoder.

    Args:
        waveforms: `(batch, samples)`, at least 400 samples; zero where a row is padded.
        bins: mel filters.

    Returns:
        fp32 `(batch, 2 * frames, bins)`, frames = (samples - 400) // 320 + 1; entry j has the samples
        [160 j - 80, 160 j + 320). At least log(1e-8).
    """
    filters, window = constants(bins, waveforms)
    count = 2 * ((waveforms.shape[1] - MEL_WINDOW) // (2 * MEL_SHIFT) + 1)
    padded = F.pad(waveforms.float(), (MARGIN, MARGIN))
    windows = padded.unfold(1, MEL_WINDOW, MEL_SHIFT)[:, :count]
    rows, size = len(waveforms), 2 * (len(filters) - 1)
    width = AT_ONCE.get(waveforms.device.type, AT_ONCE["other"])
    height = max(width // count, 1)
    parts = [
        torch.cat(
            [_log_power(part, window, size, filters) for part in windows[row : row + height].split(width, 1)], dim=1
        )
        for row in range(0, rows, height)
    ]
    return torch.cat(parts)


def _log_power(windows: Tensor, window: Tensor, size: int, filters: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(windows * window, size)
    power = spectrum.real.square() + spectrum.imag.square()
    return (power @ filters).clamp(min=FLOOR).log()


def centred(frames: Tensor, valid: Tensor | None, norm: str) -> Tensor:
    """Log-mel frames with a mean near 0 and a spread near 1.

    Args:
        frames: `(batch, steps, bins)` of `log_mel_frames`.
        valid: valid steps of each row, int64 `(batch,)`; None if all are.
        norm: what is subtracted: `level` the mean of each row over all its steps and bins, `bins` the mean of each bin of a
            row, `none` a constant.

    Returns:
        `(batch, steps, bins)`; arbitrary behind the valid steps of a row.
    """
    if norm == "none":
        return (frames - TYPICAL) / SPREAD
    if valid is None:
        mean = frames.mean(1, keepdim=True)
    else:
        padding = padding_mask(valid, frames.shape[1])[:, :, None]
        mean = frames.masked_fill(padding, 0.0).sum(1, keepdim=True) / valid[:, None, None]
    return (frames - (mean.mean(2, keepdim=True) if norm == "level" else mean)) / SPREAD


def constants(bins: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Mel filters `(frequencies, bins)` and the Hann window, fp32 on the device of `like`."""
    # Not buffers: they would be cast with the weights, and a model that is built on the meta device would lack them.
    # Tensors of tracing and of shape rules must not be kept for later passes.
    make = _kept if type(like) is Tensor else _made
    return make(bins, like.device)


def _made(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    size = transform_size(bins)
    frequencies = torch.arange(size // 2 + 1, dtype=torch.float64) * SAMPLE_RATE / size
    places = torch.linspace(mel(MEL_LOWEST), mel(SAMPLE_RATE / 2), bins + 2, dtype=torch.float64)
    edges = 700.0 * torch.expm1(places / 1127.0)
    slopes = (frequencies[:, None] - edges[None, :-1]) / edges.diff()
    filters = torch.minimum(slopes[:, :-1], 1 - slopes[:, 1:]).clamp(min=0)
    window = torch.hann_window(MEL_WINDOW, dtype=torch.float64)
    return filters.float().to(device), window.float().to(device)


@functools.lru_cache(maxsize=8)
def _kept(bins: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):  # made in a validation, they could not be used in training afterwards
        return _made(bins, device)


def transform_size(bins: int) -> int:
    """Points of the Fourier transform: the smallest power of two, at least 512, with which no mel filter is empty."""
    step = (mel(SAMPLE_RATE / 2) - mel(MEL_LOWEST)) / (bins + 1)
    narrowest = 700.0 * math.expm1((mel(MEL_LOWEST) + 2 * step) / 1127.0) - MEL_LOWEST  # Hz, of the lowest filter
    return max(512, 1 << math.ceil(math.log2(SAMPLE_RATE / narrowest)))
