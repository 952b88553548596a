"""From waveform to frames: the seven convolutions, chunk by chunk, and what precedes and follows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wavlm_lightning.encoder.attention import compute_dtype
from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.cpu import strided_products
from wavlm_lightning.encoder.cpu.chunks import chunks
from wavlm_lightning.encoder.cpu.folded_norm import FoldedConvolution
from wavlm_lightning.encoder.cpu.recomputed_convolution import convolve_made
from wavlm_lightning.encoder.cpu.weight_cache import kept
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

    def norm_parameters(self) -> tuple[Tensor, ...]:
        """Weight and bias of the norm, unless there is none or it is folded into the convolution."""
        return (self.layer_norm.weight, self.layer_norm.bias) if isinstance(self.layer_norm, nn.LayerNorm) else ()

    def activate(self, x: Tensor, *norm: Tensor) -> Tensor:
        """What follows the convolution, but for a norm that is folded into it.

        Args:
            x: `(batch, steps, channels)`, in any order of memory.
            norm: what `norm_parameters` gives.

        Returns:
            The same shape, and the same precision: autocast would make tensors fp32 here that the next convolution
            turns back.
        """
        if isinstance(self.layer_norm, nn.LayerNorm):
            with torch.autocast(x.device.type, enabled=False):  # sums are fp32 inside, whatever goes in
                weight, bias = (parameter.to(x.dtype) for parameter in norm)
                x = F.layer_norm(x, self.layer_norm.normalized_shape, weight, bias, self.layer_norm.eps)
        # On a CPU GELU is another kernel where memory is in order, in bf16 twice as fast.
        return F.gelu(x) if x.is_contiguous() else F.gelu(x.mT).mT


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
        matrices = self._matrices(waveforms)
        rows: dict[int, list[Tensor]] = {}
        batch, samples = waveforms.shape
        for chunk in chunks(self.config, batch, samples, compute_dtype(waveforms), waveforms.device.type):
            part = folded.rows(chunk.rows) if folded is not None else None
            stretch = waveforms[chunk.rows, chunk.samples]
            if matrices is None:
                features = self._convolve(stretch, part, trained)
            else:
                features = self._multiply(stretch, part, trained, matrices)
            rows.setdefault(chunk.rows.start, []).append(features)
        return torch.cat(
            [torch.cat(stretches, 1) if len(stretches) > 1 else stretches[0] for stretches in rows.values()]
        )

    def _convolve(self, waveforms: Tensor, folded: FoldedConvolution | None, trained: bool) -> Tensor:
        """`(rows, samples)` to `(rows, frames, channels)` by torch's convolutions."""

        def step(function: Callable[..., Tensor], *arguments: Any) -> Tensor:
            # Checkpointing stops as soon as it has what the backward pass needs: the convolution is not repeated.
            if trained:
                return checkpoint(function, *arguments, use_reentrant=False, preserve_rng_state=False)
            return function(*arguments)

        x = step(self._begin, waveforms, folded)
        for index in range(2, len(self.conv_layers)):
            x = step(self._proceed, x, index)
        last = self.conv_layers[-1]
        return last.activate(x, *last.norm_parameters())

    def _begin(self, waveforms: Tensor, folded: FoldedConvolution | None) -> Tensor:
        """The convolutions of the first two layers and all between them."""
        x = (self.conv_layers[0].conv(waveforms[:, None]) if folded is None else folded(waveforms)).mT
        return self._proceed(x, 1) if len(self.conv_layers) > 1 else x

    def _proceed(self, x: Tensor, index: int) -> Tensor:
        """From what one convolution gave to what the next one gives."""
        before = self.conv_layers[index - 1]
        return self.conv_layers[index].conv(before.activate(x, *before.norm_parameters()).mT).mT

    def _matrices(self, waveforms: Tensor) -> list[tuple[Tensor, ...]] | None:
        """What the layers but the first multiply with; None if they had better be torch's convolutions."""
        convolutions = [layer.conv for layer in self.conv_layers[1:]]
        if not convolutions or not strided_products.usable(convolutions, waveforms):
            return None
        return [kept("taps", (conv.weight,)) or strided_products.taps(conv.weight) for conv in convolutions]

    def _multiply(
        self, waveforms: Tensor, folded: FoldedConvolution | None, trained: bool, matrices: list[tuple[Tensor, ...]]
    ) -> Tensor:
        """`(rows, samples)` to `(rows, frames, channels)` by `strided_products`."""
        first = self.conv_layers[0]
        if folded is not None:
            inputs: tuple[Tensor, ...] = (waveforms, folded.centre, folded.weight, folded.bias)
        else:
            inputs = (waveforms, *first.conv.parameters(), *first.norm_parameters())
        make: Callable[..., Tensor] = self._first_activations
        for layer, own in zip(self.conv_layers[1:], matrices, strict=True):
            x = convolve_made(make, inputs, own) if trained else strided_products.convolve(make(*inputs), own)
            if layer.conv.bias is not None:
                x = x + layer.conv.bias
            make, inputs = layer.activate, (x, *layer.norm_parameters())
        return make(*inputs)

    def _first_activations(self, waveforms: Tensor, *parameters: Tensor) -> Tensor:
        """`(rows, samples)` to what the second convolution sees, `(rows, steps, channels)`."""
        layer = self.conv_layers[0]
        kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
        if isinstance(layer.layer_norm, nn.GroupNorm):
            centre, weight, bias = parameters
            return layer.activate(FoldedConvolution(centre, weight, bias, stride)(waveforms, time_major=True))
        filters, *biases = parameters[:-2]
        return layer.activate(F.linear(waveforms.unfold(1, kernel, stride), filters[:, 0], *biases), *parameters[-2:])


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
