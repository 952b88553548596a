"""Multi-head self-attention with WavLM's gated relative position bias (arXiv 2110.13900, section III-B).

The bias of query i and key j in head h is `gate[b, h, i] * table[h, j - i]`: one number for each head and offset, from a
table that all layers share, times a gate that each layer computes from the query's hidden state. ILS-SSL adds the table
without gate; HuBERT and wav2vec 2.0 have no bias.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder.attention_backends import attend
from wavlm_lightning.encoder.config import WavLMConfig
from wavlm_lightning.encoder.cpu.linears import product
from wavlm_lightning.encoder.position_bias import RelativePositionTable


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with the encoder's initialisation: weights from N(0, 0.02), bias 0 (arXiv 2106.07447, fairseq)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def compute_dtype(x: Tensor) -> torch.dtype:
    """The precision in which matrix products of `x` run: that of autocast if it is on."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


class Attention(nn.Module):
    """Multi-head self-attention of one layer, with the layer's own gate on the shared position bias.

    Args:
        config: sizes of the encoder.
        has_table: whether this layer holds the parameter of the shared bias table (layer 0 of models with a bias).
    """

    def __init__(self, config: WavLMConfig, has_table: bool):
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.q_proj = linear(config.dim, config.dim)
        self.k_proj = linear(config.dim, config.dim)
        self.v_proj = linear(config.dim, config.dim)
        self.out_proj = linear(config.dim, config.dim)
        self.gated = config.position_bias == "gated"
        if self.gated:
            self.gru_rel_pos_linear = linear(config.dim // config.heads, 8)
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, config.heads, 1, 1))
        if has_table and config.position_bias != "none":
            self.rel_attn_embed = RelativePositionTable(config)

    def gate(self, x: Tensor) -> Tensor:
        """The factor on the position bias, `(batch, frames, dim)` to `(batch, heads, frames)`; 1.75 before training.

        a, b = σ(sums over 4 rows each of an 8-row projection shared by the heads); gate = a·(b·s − 1) + 2. It is
        computed from the hidden state itself, not from the projected query.
        """
        batch, frames, _ = x.shape
        # Summing the rows of the weight first gives the same two numbers for a quarter of the work. The parameter has
        # 8 rows because checkpoints have.
        weight = self.gru_rel_pos_linear.weight.unflatten(0, (2, 4)).sum(1)
        bias = self.gru_rel_pos_linear.bias.unflatten(0, (2, 4)).sum(1)
        a, b = torch.sigmoid(product(x.view(batch, frames, self.heads, -1), weight, bias)).unbind(-1)
        scale = self.gru_rel_pos_const.view(1, 1, self.heads)
        return (a * (b * scale - 1.0) + 2.0).transpose(1, 2).contiguous()

    def forward(self, x: Tensor, table: Tensor | None, padding: Tensor | None, backend: str) -> Tensor:
        """Self-attention.

        Args:
            x: `(batch, frames, dim)`.
            table: position bias before gating, `(heads, 2 * frames - 1)`, in the precision of the computation; that of
                each pair of frames, if they are not consecutive; None for models without one. See `attend`.
            padding: bool `(batch, frames)`, true where a frame is padding, always at the end of a row; or None.
            backend: how to compute, a key of `attention_backends.BACKENDS`.

        Returns:
            `(batch, frames, dim)`.
        """
        x = x.to(compute_dtype(x))  # once: autocast would cast, and keep a copy for backward, in each of the products
        # Three products, not one with joined weights: joining costs what it saves, and the weight cache finds a packed
        # weight by its parameter.
        query, key, value = (
            product(x, projection.weight, projection.bias).unflatten(2, (self.heads, -1)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        gate = self.gate(x).to(table.dtype) if self.gated and table is not None else None
        dropout = self.dropout if self.training else 0.0
        attended = attend(backend, query, key, value, table=table, gate=gate, padding=padding, dropout=dropout)
        return product(attended.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
