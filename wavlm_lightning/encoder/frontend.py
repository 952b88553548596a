"""From waveform to frames: waveform normalisation, the seven convolutions, and the projection to the transformer's width."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wavlm_lightning.encoder.attention import compute_dtype
from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.cpu import strided_front_end
from wavlm_lightning.encoder.cpu.chunks import chunks
from wavlm_lightning.encoder.cpu.folded_norm import FoldedConvolution
from wavlm_lightning.encoder.layers import padding_mask


def normalize_waveforms(waveforms: Tensor, lengths: Tensor, eps: float = 1e-5) -> Tensor:
    """Zero mean and unit variance over the valid samples of each row; padding becomes zero.

    Args:
        waveforms: `(batch, samples)`, zero where a row is padded.
        lengths: valid samples of each row, int64 `(batch,)`.
        eps: added to the variance (1e-5 as in the released WavLM code; Hugging Face's feature extractor has 1e-7).

    Returns:
        fp32 `(batch, samples)`, whatever the precision of the input.
    """
    waveforms = waveforms.float()  # in half precision the variance of a quiet recording underflows
    count = lengths[:, None].to(waveforms.dtype)
    padding = padding_mask(lengths, waveforms.shape[1])
    mean = waveforms.sum(1, keepdim=True) / count
    centred = (waveforms - mean).masked_fill(padding, 0.0)
    variance = centred.square().sum(1, keepdim=True) / count
    return centred * torch.rsqrt(variance + eps)


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """Return `x` unchanged, with its gradient multiplied by `factor`, 0 to 1 (fairseq's `feature_grad_mult`)."""
    if factor == 1 or not x.requires_grad:
        return x
    # A lerp between equal ends gives `x` to the last bit; m·x + (1 − m)·x would round.
    return torch.lerp(x.detach(), x, factor) if factor > 0 else x.detach()


class ConvLayer(nn.Module):
    """One layer of the front-end: convolution, norm if this layer has one, exact GELU (arXiv 2006.11477, section 2).

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
            # Never called: `FrontEnd.forward` folds it into the convolution.
            self.layer_norm = nn.GroupNorm(channels, channels)

    def norm_parameters(self) -> tuple[Tensor, ...]:
        """Weight and bias of the layer norm; empty for layers without a norm and for the group norm."""
        return (self.layer_norm.weight, self.layer_norm.bias) if isinstance(self.layer_norm, nn.LayerNorm) else ()

    def activate(self, x: Tensor, *norm: Tensor) -> Tensor:
        """Layer norm, if this layer has one, and GELU, on `(batch, steps, channels)` of any memory layout.

        `norm` is what `norm_parameters` gives: an argument, because recomputing passes copies that need gradients.
        """
        if isinstance(self.layer_norm, nn.LayerNorm):
            # Autocast would return fp32, which the next convolution casts back. The kernel sums in fp32 in any case.
            with torch.autocast(x.device.type, enabled=False):
                weight, bias = (parameter.to(x.dtype) for parameter in norm)
                x = F.layer_norm(x, self.layer_norm.normalized_shape, weight, bias, self.layer_norm.eps)
        # CPUs have another GELU kernel for contiguous memory, in bf16 twice as fast.
        return F.gelu(x) if x.is_contiguous() else F.gelu(x.mT).mT


class FrontEnd(nn.Module):
    """All convolutions: one frame of `conv_channels[-1]` numbers every 20 ms, each seeing 25 ms.

    They work on one chunk of the batch at a time, which bounds the memory for recordings of any length. For the backward
    pass, only the outputs of the convolutions are kept, without that of the first, the largest tensor of the model;
    norms, GELU and the first layer are computed again.

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
            lengths: valid samples of each row, int64 `(batch,)`, if the group norm must leave the padding out; its
                statistics are all that could leak, as no valid frame sees a padded sample.

        Returns:
            `(batch, frames, channels)`, not normalised.
        """
        first = self.conv_layers[0]
        folded = None
        if isinstance(first.layer_norm, nn.GroupNorm):
            # Its statistics span the whole row, so they are taken before the row is divided into chunks.
            folded = FoldedConvolution.fold(first.conv, first.layer_norm, waveforms, lengths)
        trained = torch.is_grad_enabled() and any(x.requires_grad for x in (waveforms, *self.parameters()))
        convolve = strided_front_end.fast_path(self.conv_layers, waveforms) or self._convolve
        rows: dict[int, list[Tensor]] = {}
        batch, samples = waveforms.shape
        for chunk in chunks(self.config, batch, samples, compute_dtype(waveforms), waveforms.device.type):
            part = folded.rows(chunk.rows) if folded is not None else None
            features = convolve(waveforms[chunk.rows, chunk.samples], part, trained)
            rows.setdefault(chunk.rows.start, []).append(features)
        return torch.cat(
            [torch.cat(stretches, 1) if len(stretches) > 1 else stretches[0] for stretches in rows.values()]
        )

    def _convolve(self, waveforms: Tensor, folded: FoldedConvolution | None, trained: bool) -> Tensor:
        """`(rows, samples)` to `(rows, frames, channels)`, by torch's convolutions."""

        def step(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
            # A step ends with a convolution, which recomputing does not repeat: non-reentrant checkpointing stops as soon
            # as it has restored the saved tensors, here the convolution's input.
            if trained:
                return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
            return function(*arguments)

        x = step(self._first_two_convolutions, waveforms, folded)
        for index in range(2, len(self.conv_layers)):
            x = step(self._next_convolution, x, index)
        last = self.conv_layers[-1]
        return last.activate(x, *last.norm_parameters())

    def _first_two_convolutions(self, waveforms: Tensor, folded: FoldedConvolution | None) -> Tensor:
        x = (self.conv_layers[0].conv(waveforms[:, None]) if folded is None else folded(waveforms)).mT
        return self._next_convolution(x, 1) if len(self.conv_layers) > 1 else x

    def _next_convolution(self, x: Tensor, index: int) -> Tensor:
        """Norm and GELU of layer `index - 1`, then the convolution of layer `index`; `(rows, steps, channels)`."""
        before = self.conv_layers[index - 1]
        return self.conv_layers[index].conv(before.activate(x, *before.norm_parameters()).mT).mT


class FeatureProjection(nn.Module):
    """Layer norm over the convolution channels, linear layer to the width of the transformer, dropout.

    Args:
        config: sizes of the encoder.
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        channels = config.feature_dim
        self.layer_norm = nn.LayerNorm(channels, config.layer_norm_eps)
        self.projection = nn.Linear(channels, config.dim)
        self.dropout = nn.Dropout(config.dropout_input)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """`(batch, frames, channels)` to `(batch, frames, dim)`, and the features after the layer norm."""
        normalised = self.layer_norm(features)
        return self.dropout(self.projection(normalised)), normalised
