"""From waveform to frames: the seven convolutions, chunk by chunk, and what precedes and follows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wavlm_lightning.encoder.attention import compute_dtype
from wavlm_lightning.encoder.chunks import chunks
from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.folded_norm import FoldedConvolution
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


class ConvLayer(nn.Module):
    """The parts of one layer: convolution, norm if this layer has one, exact GELU (arXiv 2006.11477, section 2).

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
            self.layer_norm = nn.GroupNorm(channels, channels)  # folded into the convolution, see `FoldedConvolution`

    def activate(self, x: Tensor) -> Tensor:
        """What follows the convolution, but for a norm that is folded into it.

        Args:
            x: `(batch, channels, time)`.

        Returns:
            The same shape, and the same precision: autocast would make tensors fp32 here that the next convolution
            turns back.
        """
        if isinstance(self.layer_norm, nn.LayerNorm):
            norm = self.layer_norm
            with torch.autocast(x.device.type, enabled=False):  # sums are fp32 inside, whatever goes in
                weight, bias = norm.weight.to(x.dtype), norm.bias.to(x.dtype)
                x = F.layer_norm(x.transpose(1, 2), norm.normalized_shape, weight, bias, norm.eps).transpose(1, 2)
        return F.gelu(x)


class FrontEnd(nn.Module):
    """All convolutions: one frame of `conv_channels[-1]` numbers every 20 ms, each seeing 25 ms.

    They work on a chunk of the batch at a time, which bounds the memory for recordings of any length. Training keeps of
    each layer but the first only what its convolution gave: the backward pass computes norms and GELU again, and the
    whole first layer, whose output is the largest tensor of the model.

    Args:
        config: sizes of the encoder.

    Example:
        >>> FrontEnd(WavLMConfig.tiny())(torch.randn(2, 16_000)).shape
        torch.Size([2, 49, 256])
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.config = config
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
        first = self.conv_layers[0]
        folded = None
        if isinstance(first.layer_norm, nn.GroupNorm):
            folded = FoldedConvolution.fold(first.conv, first.layer_norm, waveforms, lengths)
        trained = torch.is_grad_enabled() and any(x.requires_grad for x in (waveforms, *self.parameters()))
        rows: dict[int, list[Tensor]] = {}
        batch, samples = waveforms.shape
        for chunk in chunks(self.config, batch, samples, compute_dtype(waveforms), waveforms.device.type):
            part = folded.rows(chunk.rows) if folded is not None else None
            features = self._convolve(waveforms[chunk.rows, chunk.samples], part, trained)
            rows.setdefault(chunk.rows.start, []).append(features)
        return torch.cat(
            [torch.cat(stretches, 1) if len(stretches) > 1 else stretches[0] for stretches in rows.values()]
        )

    def _convolve(self, waveforms: Tensor, folded: FoldedConvolution | None, trained: bool) -> Tensor:
        """`(rows, samples)` to `(rows, frames, channels)`."""

        def step(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
            # Checkpointing stops as soon as it has what the backward pass needs: the convolution is not repeated.
            if trained:
                return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
            return function(*arguments)

        x = step(self._begin, waveforms, folded)
        for index in range(2, len(self.conv_layers)):
            x = step(self._proceed, x, index)
        return self.conv_layers[-1].activate(x).transpose(1, 2)

    def _begin(self, waveforms: Tensor, folded: FoldedConvolution | None) -> Tensor:
        """The convolutions of the first two layers and all between them."""
        x = self.conv_layers[0].conv(waveforms[:, None]) if folded is None else folded(waveforms)
        return self._proceed(x, 1) if len(self.conv_layers) > 1 else x

    def _proceed(self, x: Tensor, index: int) -> Tensor:
        """From what one convolution gave to what the next one gives."""
        return self.conv_layers[index].conv(self.conv_layers[index - 1].activate(x))


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
