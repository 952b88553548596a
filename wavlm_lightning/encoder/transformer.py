"""The transformer: convolutional positional embedding, pre- or post-norm layers, LayerDrop."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from wavlm_lightning.encoder.attention import Attention, linear
from wavlm_lightning.encoder.config import WavLMConfig


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision in which matrix products of `x` run: that of autocast where it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


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
        embedding = self.conv(x.transpose(1, 2))[:, :, : x.shape[1]]  # an even kernel makes one frame too many
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
        x = self.activation_dropout(F.gelu(self.intermediate_dense(x)))
        return self.dropout(self.output_dense(x))


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with a residual connection and a layer norm before or after it.

    Args:
        config: sizes of the encoder.
        index: which layer, from 0.
    """

    def __init__(self, config: WavLMConfig, index: int):
        super().__init__()
        self.pre_norm = config.pre_norm
        self.attention = Attention(config, has_table=index == 0)
        self.dropout = nn.Dropout(config.dropout)
        self.layer_norm = nn.LayerNorm(config.dim, config.layer_norm_eps)
        self.feed_forward = FeedForward(config)
        self.final_layer_norm = nn.LayerNorm(config.dim, config.layer_norm_eps)

    def forward(self, x: Tensor, table: Tensor, key_bias: Tensor | None) -> Tensor:
        """One layer.

        Args:
            x: `(batch, frames, dim)`.
            table: position bias before gating, `(heads, frames, frames)`.
            key_bias: `(batch, 1, 1, frames)`, minus infinity for padding, or None.

        Returns:
            `(batch, frames, dim)`.
        """
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.layer_norm(x), table, key_bias))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, table, key_bias)))
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
        self.layer_drop = config.layer_drop
        self.pos_conv_embed = PositionalConvolution(config)
        self.layer_norm = nn.LayerNorm(config.dim, config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = nn.ModuleList(TransformerLayer(config, index) for index in range(config.layers))

    def forward(self, x: Tensor, padding: Tensor | None = None) -> list[Tensor]:
        """Run the stack.

        Args:
            x: projected and masked features, `(batch, frames, dim)`.
            padding: bool `(batch, frames)`, true where a frame is padding; None if none is.

        Returns:
            `layers + 1` tensors `(batch, frames, dim)`. The first is the input of layer 1. The last is the output of
            the stack: after the final layer norm in pre-norm models, as in Hugging Face and s3prl (unilm's
            `extract_features` leaves that norm out). A dropped layer repeats its input, so the number never changes.
        """
        if padding is not None:
            x = x.masked_fill(padding[:, :, None], 0.0)  # the positional convolution would carry padding inwards
        x = x + self.pos_conv_embed(x)
        if not self.pre_norm:
            x = self.layer_norm(x)
        x = self.dropout(x)
        table, key_bias = self.position_table(x), None
        if padding is not None:
            key_bias = table.new_zeros(padding.shape).masked_fill(padding, -math.inf)[:, None, None, :]
        states = [x]
        for layer in self.layers:
            if not self._drops_layer():
                x = layer(x, table, key_bias)
            states.append(x)
        if self.pre_norm:
            states[-1] = self.layer_norm(x)
        return states

    def position_table(self, x: Tensor) -> Tensor:
        """The position bias of all layers before gating, `(heads, frames, frames)`, in the precision of the products.

        Computed here and not in layer 0, so that dropping that layer costs the others nothing.
        """
        table = self.layers[0].attention.rel_attn_embed(x.shape[1])
        return table.to(compute_dtype(x))

    def _drops_layer(self) -> bool:
        # Drawn on the CPU: a draw on the GPU would make every layer wait for it.
        return self.training and self.layer_drop > 0 and torch.rand(()).item() < self.layer_drop
