"""The transformer: convolutional positional embedding, pre- or post-norm layers, LayerDrop."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from wavlm_lightning.encoder.attention import Attention, compute_dtype, linear
from wavlm_lightning.encoder.attention_backends import BACKENDS, choose
from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.cpu import spectral_convolution
from wavlm_lightning.encoder.cpu.inference_prep import positional_embedding, positional_weight
from wavlm_lightning.encoder.cpu.linears import gelu_product, product
from wavlm_lightning.encoder.visible_frames import VisibleFrames


class PositionalConvolution(nn.Module):
    """Convolutional positional embedding: a wide grouped convolution over frames, then GELU (arXiv 2006.11477, section 2).

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
        self.conv = weight_norm(conv, dim=2)  # one norm for each tap of the kernel, as in fairseq

    def forward(self, x: Tensor) -> Tensor:
        """Positions of `(batch, frames, dim)`, zero where a frame is padding, in the same shape, to be added."""
        conv, weight = self.conv, positional_weight(self.conv)
        if spectral_convolution.usable(x, weight):
            return F.gelu(positional_embedding(x, weight, conv).to(compute_dtype(x)))
        embedding = F.conv1d(x.transpose(1, 2), weight, conv.bias, padding=conv.padding[0], groups=conv.groups)
        embedding = embedding[:, :, : x.shape[1]]  # an even kernel gives one frame too many
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
        x = self.activation_dropout(gelu_product(x, inner.weight, inner.bias))  # F.gelu(inner(x))
        return self.dropout(product(x, outer.weight, outer.bias))  # outer(x)


class DroppedLayer(torch.autograd.Function):
    """A layer that LayerDrop skips: the input unchanged, and zeros as gradients of the layer's parameters.

    Without gradients DDP would wait for them, or search the graph for missing ones in every step; and Adam would
    neither decay nor move these parameters, though it does so if another process ran the layer. With zeros all
    processes take the same step, driven by momentum and weight decay.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Tensor | None) -> Tensor:
        # `others`, the parameters and the position bias, only join the graph.
        ctx.save_for_backward(*others)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        zeros = (
            torch.zeros_like(other) if needed else None
            for other, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        )
        return gradient, *zeros


class TransformerLayer(nn.Module):
    """Attention and feed-forward, each with a residual connection and a layer norm before or after it.

    Args:
        config: sizes of the encoder.
        index: which layer, from 0.

    Attributes:
        recomputed: activation checkpointing: the backward pass runs the layer again instead of keeping its activations.
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
        """Run the layer, or skip it for LayerDrop.

        A skipped layer must be called as well: FSDP2 gathers its parameters and reduces their gradients in this call.

        Args:
            x: `(batch, frames, dim)`.
            table: position bias before gating, see `Attention`; or None.
            padding: bool `(batch, frames)`, true where a frame is padding; or None.
            backend: how attention is computed; see `Attention`.
            dropped: whether LayerDrop skips it.

        Returns:
            `(batch, frames, dim)`.
        """
        if dropped:
            # The parameter of the bias table lies in layer 0 but serves all layers: `table` stands for it in the graph.
            own = [parameter for name, parameter in self.named_parameters() if "rel_attn_embed" not in name]
            return DroppedLayer.apply(x, table, *own)
        run = self._compiled or self._run
        if self.recomputed and torch.is_grad_enabled():
            return checkpoint(run, x, table, padding, backend, use_reentrant=False)
        return run(x, table, padding, backend)

    def compile_run(self) -> None:
        # A compiled function, not a compiled module: the latter would put `_orig_mod` into the parameters' names.
        self._compiled = torch.compile(self._run, dynamic=True)

    def run_plainly(self) -> None:
        """Undo `compile_run`. A copy of a layer needs it: the compiled function is that of the layer it was copied from."""
        self._compiled = None

    def _run(self, x: Tensor, table: Tensor | None, padding: Tensor | None, backend: str) -> Tensor:
        if self.pre_norm:
            x = x + self.dropout(self.attention(self.layer_norm(x), table, padding, backend))
            return x + self.feed_forward(self.final_layer_norm(x))
        x = self.layer_norm(x + self.dropout(self.attention(x, table, padding, backend)))
        return self.final_layer_norm(x + self.feed_forward(x))


class Transformer(nn.Module):
    """The stack of layers with positional convolution, dropout and the shared position bias.

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
        visible: VisibleFrames | None = None,
    ) -> list[Tensor]:
        """Run the stack up to the highest hidden state asked for.

        Args:
            x: projected and masked features, `(batch, frames, dim)`.
            padding: bool `(batch, frames)`, true where a frame is padding; None without padding.
            keep: which hidden states to return, from 0 to `layers`; None for all.
            dropped: for each layer, whether to skip it; None draws them in training mode.
            visible: the frames that the layers run on; None for all. The positional convolution still reads all frames of
                `x`, masked ones as the mask embedding, so that a visible frame enters the first layer as it does without
                `visible`; attention knows how far the frames lie apart.

        Returns:
            For each entry of `keep` a tensor `(batch, frames, dim)`, with `visible` of those frames alone. Number 0 is the input
            of layer 1. Number `layers` is the output of the stack, in pre-norm models after the final layer norm, as in s3prl and
            in Hugging Face's `last_hidden_state` (transformers 5 and unilm's `extract_features` leave that norm out of the
            list). A dropped layer repeats its input.
        """
        if padding is not None:
            x = x.masked_fill(padding[:, :, None], 0.0)  # or the positional convolution would mix it into valid frames
        x = x + self.pos_conv_embed(x)
        frames = x.shape[1]
        if visible is not None:
            x, padding = visible.gather(x), visible.padding
        if not self.pre_norm:
            x = self.layer_norm(x)
        x = self.dropout(x)
        dtype = compute_dtype(x)
        table = self.table(frames, dtype, visible)
        dropout = self.attention_dropout if self.training else 0.0
        # Chosen here, not inside a layer: activation checkpointing must choose the same backend when it runs one again,
        # and `choose` asks whether gradients are enabled, which differs there.
        backend = self.attention_backend or choose(x.device, dtype, table is not None, dropout)
        keep = range(len(self.layers) + 1) if keep is None else keep
        states = {0: x} if 0 in keep else {}
        for number, layer in enumerate(self.layers[: max(keep)], start=1):
            x = layer(x, table, padding, backend, self._drops_layer() if dropped is None else dropped[number - 1])
            if number in keep:  # the others are freed as soon as the next layer has read them
                states[number] = x
        if self.pre_norm and len(self.layers) in keep:
            states[len(self.layers)] = self.layer_norm(x)
        return [states[number] for number in keep]

    def table(self, frames: int, dtype: torch.dtype, visible: VisibleFrames | None = None) -> Tensor | None:
        """The position bias before gating, or None for models without bias.

        It is `(heads, 2 * frames - 1)`, or that of each pair of visible frames, `(batch, heads, visible, visible)`.
        """
        if self.position_bias == "none":
            return None
        # Not inside layer 0, which holds the parameter: LayerDrop of layer 0 must not remove the bias from the others.
        table = self.layers[0].attention.rel_attn_embed(frames)
        return (table if visible is None else visible.bias(table)).to(dtype)

    def run_layers(self, recomputed: bool, compiled: bool, attention: str | None = None) -> None:
        """Choose how the layers run from now on; the values they compute stay the same.

        Args:
            recomputed: activation checkpointing: keep only the input of each layer for the backward pass, which runs the
                layer again. Less memory, more time.
            compiled: use torch.compile.
            attention: attention backend, `sdpa`, `recomputed` or `flex`; None to choose by device and precision.

        Raises:
            ValueError: unknown attention backend.
        """
        if attention is not None and attention not in BACKENDS:
            raise ValueError(f"attention must be one of {', '.join(BACKENDS)} or None, not {attention}")
        self.attention_backend = attention
        for layer in self.layers:
            layer.recomputed = recomputed
            if compiled:
                layer.compile_run()
            else:
                layer.run_plainly()

    def linear_weights(self) -> list[Tensor]:
        """The weights of the linear layers that `cpu.linears` multiplies with."""
        linears: list[nn.Linear] = []
        for layer in self.layers:
            attention, feed_forward = layer.attention, layer.feed_forward
            linears += [attention.q_proj, attention.k_proj, attention.v_proj, attention.out_proj]
            linears += [feed_forward.intermediate_dense, feed_forward.output_dense]
        return [linear.weight for linear in linears]

    def _drops_layer(self) -> bool:
        # Drawn on the CPU: reading a draw from the GPU would make every layer wait for it.
        return self.training and self.layer_drop > 0 and torch.rand(()).item() < self.layer_drop
