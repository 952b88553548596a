"""The transformer: convolutional positional embedding, pre- or post-norm layers, LayerDrop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from wavlm_lightning.encoder.attention import Attention, compute_dtype, linear
from wavlm_lightning.encoder.attention_backends import BACKENDS, choose
from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.cpu import spectral_convolution
from wavlm_lightning.encoder.cpu.inference_prep import positional_spectrum, positional_weight
from wavlm_lightning.encoder.cpu.linears import gelu_product, product
from wavlm_lightning.encoder.dropped_layer import DroppedLayer


class PositionalConvolution(nn.Module):
    """A wide grouped convolution over frames, whose output is added to them (wav2vec 2.0, arXiv 2006.11477, section 2).

    WavLM keeps it beside the relative position bias.

    Args:
        config: sizes of the encoder.

    Example:
        >>> PositionalConvolution(WavLMConfig.tiny())(torch.randn(2, 49, 192)).shape
        torch.Size([2, 49, 192])
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        kernel, dim = config.pos_conv_kernel, config.dim
        conv = nn.Conv1d(dim, dim, kernel, padding=kernel // 2, groups=config.pos_conv_groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * dim)))
        nn.init.zeros_(conv.bias)
        self.conv = weight_norm(conv, dim=2)  # one length for each tap of the kernel

    def forward(self, x: Tensor) -> Tensor:
        """Embed positions.

        Args:
            x: `(batch, frames, dim)`, zero where a frame is padding.

        Returns:
            `(batch, frames, dim)`, to be added.
        """
        conv = self.conv
        weight = positional_weight(conv)
        if spectral_convolution.usable(x, weight):
            embedding = spectral_convolution.convolve(x, weight, positional_spectrum(conv))
            return F.gelu((embedding + conv.bias).to(compute_dtype(x)))
        embedding = F.conv1d(x.transpose(1, 2), weight, conv.bias, padding=conv.padding[0], groups=conv.groups)
        embedding = embedding[:, :, : x.shape[1]]  # an even kernel makes one frame too many
        return F.gelu(embedding).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers with an exact GELU between them.

    Args:
        config: sizes of the encoder.
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.intermediate_dense = linear(config.dim, config.ffn_dim)
        self.output_dense = linear(config.ffn_dim, config.dim)
        self.activation_dropout = nn.Dropout(config.activation_dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, frames, dim)` to the same shape."""
        inner, outer = self.intermediate_dense, self.output_dense
        x = self.activation_dropout(gelu_product(x, inner.weight, inner.bias))
        return self.dropout(product(x, outer.weight, outer.bias))


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with a residual connection and a layer norm before or after it.

    Args:
        config: sizes of the encoder.
        index: which layer, from 0.

    Attributes:
        recomputed: whether the backward pass computes the layer once more instead of having kept all that is inside.
    """

    recomputed = False

    def __init__(self, config: WavLMConfig, index: int):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = Attention(config, has_table=index == 0)
        self.dropout = nn.Dropout(config.dropout)
        self.layer_norm = nn.LayerNorm(config.dim, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.dim, config.layer_norm_eps)
        self._compiled: Callable[..., Tensor] | None = None

    def forward(
        self, x: Tensor, table: Tensor | None, padding: Tensor | None, backend: str, dropped: bool = False
    ) -> Tensor:
        """One layer, or none if LayerDrop skips it.

        A skipped layer is called, too: sharded training gathers its parameters here, and takes their gradients.

        Args:
            x: `(batch, frames, dim)`.
            table: position bias before gating, `(heads, 2 * frames - 1)`, or None.
            padding: bool `(batch, frames)`, or None.
            backend: how attention is computed; see `Attention`.
            dropped: whether to skip it.

        Returns:
            `(batch, frames, dim)`.
        """
        if dropped:
            # The table's parameter lies in layer 0 but belongs to all; it joins the graph as what was made of it.
            own = [parameter for name, parameter in self.named_parameters() if "rel_attn_embed" not in name]
            return DroppedLayer.apply(x, table, *own)
        run = self._compiled or self._run
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(run, x, table, padding, backend, use_reentrant=False)
        return run(x, table, padding, backend)

    def compile_run(self) -> None:
        """Let torch.compile fuse the layer, once for all lengths; names of parameters stay as they are."""
        self._compiled = torch.compile(self._run, dynamic=True)

    def _run(self, x: Tensor, table: Tensor | None, padding: Tensor | None, backend: str) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.layer_norm(x), table, padding, backend))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, table, padding, backend)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Transformer(nn.Module):
    """The stack of layers with everything they share.

    Args:
        config: sizes of the encoder.

    Example:
        >>> states = Transformer(WavLMConfig.tiny())(torch.randn(2, 49, 192))
        >>> len(states), states[0].shape
        (5, torch.Size([2, 49, 192]))
    """

    def __init__(self, config: WavLMConfig):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.position_bias = config.position_bias
        self.layer_drop = config.layer_drop
        self.attention_dropout = config.attention_dropout
        self.attention_backend: str | None = None
        self.pos_conv_embed = PositionalConvolution(config)
        self.layer_norm = nn.LayerNorm(config.dim, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(TransformerLayer(config, index) for index in range(config.layers))

    def forward(
        self,
        x: Tensor,
        padding: Tensor | None = None,
        keep: Sequence[int] | None = None,
        dropped: Sequence[bool] | None = None,
    ) -> list[Tensor]:
        """Run the stack, as far as the highest hidden state asked for.

        Args:
            x: projected and masked features, `(batch, frames, dim)`.
            padding: bool `(batch, frames)`, true where a frame is padding; None if none is.
            keep: which hidden states to return, from 0 to `layers`; None for all.
            dropped: for each layer, whether to skip it; None draws them in training mode.

        Returns:
            For each entry of `keep` a tensor `(batch, frames, dim)`. Number 0 is the input of layer 1. The last one is
            the output of the stack: after the final layer norm in pre-norm models, as in s3prl and in Hugging Face's
            `last_hidden_state` (transformers 5 and unilm's `extract_features` leave that norm out of the list). A dropped
            layer repeats its input.
        """
        if padding is not None:
            x = x.masked_fill(padding[:, :, None], 0.0)  # the positional convolution would carry padding inwards
        x = x + self.pos_conv_embed(x)
        if not self.pre_norm:
            x = self.layer_norm(x)
        x = self.dropout(x)
        dtype = compute_dtype(x)
        table = self.table(x.shape[1], dtype)
        dropout = self.attention_dropout if self.training else 0.0
        # Once for all layers, and before any of them: a layer that is run again must do again what it did.
        backend = self.attention_backend or choose(x.device, dtype, table is not None, dropout)
        keep = range(len(self.layers) + 1) if keep is None else keep
        states = {0: x} if 0 in keep else {}
        for number, layer in enumerate(self.layers[: max(keep)], start=1):
            x = layer(x, table, padding, backend, self._drops_layer() if dropped is None else dropped[number - 1])
            if number in keep:  # the others may go as soon as the next layer has read them
                states[number] = x
        if self.pre_norm and len(self.layers) in keep:
            states[len(self.layers)] = self.layer_norm(x)
        return [states[number] for number in keep]

    def table(self, frames: int, dtype: torch.dtype) -> Tensor | None:
        """The position bias before gating, `(heads, 2 * frames - 1)`, or None where there is none.

        Computed here and not in layer 0, which holds its parameter, so that dropping that layer costs the others nothing.
        """
        return None if self.position_bias == "none" else self.layers[0].attention.rel_attn_embed(frames).to(dtype)

    def run_layers(self, recomputed: bool, compiled: bool, attention: str | None = None) -> None:
        """Choose how the layers run from now on; what they compute stays the same.

        Args:
            recomputed: keep only the input of each layer for the backward pass, which then runs the layer once more:
                less memory, more time.
            compiled: by torch.compile.
            attention: how attention is computed, `sdpa`, `recomputed` or `flex`; None to choose by device and
                precision.

        Raises:
            ValueError: there is no such attention.
        """
        if attention is not None and attention not in BACKENDS:
            raise ValueError(f"attention must be one of {', '.join(BACKENDS)} or None, not {attention}")
        self.attention_backend = attention
        for layer in self.layers:
            layer.recomputed = recomputed
            if compiled:
                layer.compile_run()

    def _drops_layer(self) -> bool:
        # Drawn on the CPU: a draw on the GPU would make every layer wait for it.
        return self.training and self.layer_drop > 0 and torch.rand(()).item() < self.layer_drop
