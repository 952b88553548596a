"""From waveform to frames: the seven convolutions, and the norms that must not notice padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.layers import padding_mask


def normalize_waveforms(waveforms: Tensor, lengths: Tensor, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance over the valid samples of each row; padding becomes zero.

    Args:
        waveforms: `(batch, samples)`, zero where a row is padded.
        lengths: valid samples of each row, int64 `(batch,)`.
        eps: added to the variance (1e-5, that of the released WavLM code; Hugging Face's feature extractor has 1e-7).

    Returns:
        `(batch, samples)` in fp32, whatever the input: the variance of a quiet recording underflows in half precision.
    """
    waveforms = waveforms.float()
    count = lengths[:, None].to(waveforms.dtype)
    padding = padding_mask(lengths, waveforms.shape[1])
    mean = waveforms.sum(1, keepdim=True) / count
    centred = (waveforms - mean).masked_fill(padding, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + eps)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """The same values, with the gradient multiplied by `factor` (fairseq's `feature_grad_mult`).

    Args:
        x: any shape.
        factor: between 0 (no gradient passes) and 1 (nothing changes).

    Returns:
        `x` to the last bit: m·x + (1 − m)·x would round, a lerp between equal ends does not.
    """
    if factor == 1 or not x.requires_grad:
        return x
    return torch.lerp(x.detach(), x, factor) if factor > 0 else x.detach()


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm with one group a channel, whose statistics can leave the padding out.

    Example:
        >>> MaskedGroupNorm(32)(torch.randn(2, 32, 100), torch.tensor([100, 60])).shape
        torch.Size([2, 32, 100])
    """

    def __init__(self, channels: int):
        super().__init__(channels, channels)

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Normalise each channel of each row over time.

        Args:
            x: `(batch, channels, time)`.
            lengths: valid steps of each row, int64 `(batch,)`; None takes the statistics over all steps.

        Returns:
            `(batch, channels, time)`; where `lengths` says padding, the values mean nothing.
        """
        if lengths is None:
            return super().forward(x)
        # fp32 inside, as in torch's own kernel: a sum over thousands of steps does not fit in bf16.
        values = x.float()
        padding = padding_mask(lengths, x.shape[2])[:, None, :]
        count = lengths[:, None, None].to(values.dtype)
        mean = values.masked_fill(padding, 0.0).sum(2, keepdim=True) / count
        centred = (values - mean).masked_fill(padding, 0.0)
        variance = centred.square().sum(2, keepdim=True) / count
        scale = self.weight[:, None] * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None], centred, scale).to(x.dtype)


class ConvLayer(nn.Module):
    """Convolution, norm if this layer has one, exact GELU (wav2vec 2.0, arXiv 2006.11477, section 2).

    Args:
        config: sizes of the encoder.
        index: which layer of the front-end, from 0.
    """

    def __init__(self, config: WavLMConfig, index: int):
        super().__init__()
        channels = config.conv_channels[index]
        self.conv = nn.Conv1d(
            config.conv_channels[index - 1] if index else 1,
            channels,
            config.conv_kernels[index],
            config.conv_strides[index],
            bias=config.conv_bias,
        )
        nn.init.kaiming_normal_(self.conv.weight)
        self.layer_norm: nn.Module | None = None
        if config.conv_norm == "layer":
            self.layer_norm = nn.LayerNorm(channels)
        elif index == 0:
            self.layer_norm = MaskedGroupNorm(channels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> Tensor:
        """`(batch, channels, time)` to the same with new channels and time; `lengths` counts valid output steps."""
        x = self.conv(x)
        if isinstance(self.layer_norm, MaskedGroupNorm):
            x = self.layer_norm(x, lengths)
        elif self.layer_norm is not None:
            x = self.layer_norm(x.transpose(1, 2)).transpose(1, 2)
        return F.gelu(x)


class FrontEnd(nn.Module):
    """All convolutions: one frame of `conv_channels[-1]` numbers every 20 ms, each seeing 25 ms.

    Args:
        config: sizes of the encoder.

    Example:
        >>> FrontEnd(WavLMConfig.tiny())(torch.randn(2, 16_000)).shape
        torch.Size([2, 49, 256])
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.first_kernel, self.first_stride = config.conv_kernels[0], config.conv_strides[0]
        self.conv_layers = nn.ModuleList(ConvLayer(config, index) for index in range(len(config.conv_channels)))

    def forward(self, waveforms: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Run the convolutions.

        Args:
            waveforms: `(batch, samples)`.
            lengths: valid samples of each row, int64 `(batch,)`, when norms must leave the padding out. None of a
                row's valid frames sees a sample of its padding, so the statistics are the only leak there is.

        Returns:
            `(batch, frames, channels)`, not normalised.
        """
        x = waveforms[:, None, :]
        if lengths is not None:
            lengths = (lengths - self.first_kernel) // self.first_stride + 1
        for layer in self.conv_layers:
            x = layer(x, lengths)
        return x.transpose(1, 2)


class FeatureProjection(nn.Module):
    """Layer norm over the convolution channels, a linear layer to the width of the transformer, dropout.

    Args:
        config: sizes of the encoder.
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        channels = config.conv_channels[-1]
        self.layer_norm = nn.LayerNorm(channels, config.layer_norm_eps)
        self.projection = nn.Linear(channels, config.dim)
        self.dropout = nn.Dropout(config.dropout_input)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, frames, channels)` to `(batch, frames, dim)`, and the features after the layer norm."""
        normalised = self.layer_norm(features)
        return self.dropout(self.projection(normalised)), normalised
