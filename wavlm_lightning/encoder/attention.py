"""Self-attention, with WavLM's gated relative position bias (arXiv 2110.13900, section III-B) where there is one.

The bias of query i and key j in head h is `gate[b, h, i] * table[h, j - i]`: a scalar for each head and offset, from a
table that all layers share, times a gate that each layer computes from the query's hidden state. Without gate (ILS-SSL)
the table alone is added; HuBERT and wav2vec 2.0 add nothing.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wavlm_lightning.encoder.config import WavLMConfig


def linear(inputs: int, outputs: int) -> nn.Linear:
    """A linear layer with the encoder's initialisation: weights from N(0, 0.02), bias 0 (arXiv 2106.07447, fairseq)."""
    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def distance_buckets(num_buckets: int, max_distance: int) -> list[int]:
    """The bucket of each distance |j - i| from 0 to `max_distance`, without the half that tells the direction.

    With h = num_buckets / 2 and e = h / 2, distances below e have a bucket each; from there on it is
    min(h - 1, e + floor((h - e) · ln(d / e) / ln(max_distance / e))). The floor is found by comparing powers of
    integers, so no rounding of a logarithm can move a boundary and there is no ln 0.

    Args:
        num_buckets: all buckets, both directions (320).
        max_distance: distance from which the last bucket is shared (800).

    Returns:
        `max_distance + 1` bucket numbers, each below `num_buckets / 2`.
    """
    half = num_buckets // 2
    exact = half // 2
    steps = half - exact
    buckets = list(range(exact))
    step = 0
    for distance in range(exact, max_distance + 1):
        # floor(...) > step  <=>  (d / e)^(h - e) >= (max_distance / e)^(step + 1)
        while step < steps - 1 and distance**steps * exact ** (step + 1) >= max_distance ** (step + 1) * exact**steps:
            step += 1
        buckets.append(exact + step)
    return buckets


class RelativePositionTable(nn.Embedding):
    """One learned number for each relative-position bucket and head, spread over queries and keys.

    The parameter lies in layer 0 as `rel_attn_embed`, where every published checkpoint has it, but the encoder calls
    it before the stack: LayerDrop of layer 0 must not take the bias from all other layers.

    Args:
        config: sizes of the encoder.

    Example:
        >>> RelativePositionTable(WavLMConfig.tiny())(49).shape
        torch.Size([4, 49, 49])
    """

    buckets: Tensor

    def __init__(self, config: WavLMConfig):
        super().__init__(config.num_buckets, config.heads)
        nn.init.normal_(self.weight, std=0.02)
        self.max_distance = config.max_distance
        self.register_buffer("buckets", self.make_buckets(), persistent=False)

    def make_buckets(self) -> Tensor:
        """Bucket of each distance, int64 `(max_distance + 1,)`; also rebuilds the buffer of a model made on `meta`."""
        return torch.tensor(distance_buckets(self.num_embeddings, self.max_distance))

    def forward(self, frames: int) -> Tensor:
        """The bias before gating.

        Args:
            frames: number of queries and keys.

        Returns:
            `(heads, frames, frames)`: entry (h, i, j) belongs to query i and key j.
        """
        offset = torch.arange(1 - frames, frames, device=self.weight.device)
        bucket = self.buckets[offset.abs().clamp(max=self.max_distance)]
        bucket = bucket + (offset > 0) * (self.num_embeddings // 2)
        by_offset = super().forward(bucket).t()  # (heads, 2 * frames - 1): all there is to know about T x T entries
        # Window s holds the offsets from s - (T - 1) on: the row of query T - 1 - s. A gather by j - i gives the same,
        # but its backward adds up T x T entries one by one.
        return by_offset.unfold(1, frames, 1).flip(1).contiguous()


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """Scaled dot-product attention with an additive bias or none.

    Args:
        query: `(batch, heads, frames, head dim)`, like `key` and `value`.
        key: see `query`.
        value: see `query`.
        bias: added to the logits, `(batch, heads, frames, frames)` with 1 in place of any size but the last; may need
            a gradient.
        dropout: probability that an attention weight is dropped.

    Returns:
        `(batch, heads, frames, head dim)`.
    """
    if bias is not None and bias.requires_grad and not bias.is_cuda:
        # torch's CPU kernels have no gradient for the bias: it falls back to plain operators that turn bf16 into fp32
        # and look for fully masked rows, which do not exist here. The same operators without that take half the time.
        bias = bias.expand(*query.shape[:3], -1)
        logits = torch.baddbmm(
            bias.flatten(0, 1), query.flatten(0, 1), key.flatten(0, 1).mT, alpha=query.shape[-1] ** -0.5
        )
        weights = F.dropout(logits.softmax(-1), dropout)
        return torch.bmm(weights, value.flatten(0, 1)).unflatten(0, query.shape[:2])
    return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout)


class Attention(nn.Module):
    """Multi-head self-attention of one layer, with this layer's gate on the shared position bias if there is one.

    Args:
        config: sizes of the encoder.
        has_table: whether this layer holds the table of position biases (layer 0 does, where the model has one).
    """

    def __init__(self, config: WavLMConfig, has_table: bool):
        super().__init__()
        self.heads = config.heads
        self.dropout = config.attention_dropout
        self.q_proj = linear(config.dim, config.dim)
        self.k_proj = linear(config.dim, config.dim)
        self.v_proj = linear(config.dim, config.dim)
        self.out_proj = linear(config.dim, config.dim)
        if config.position_bias == "gated":
            self.gru_rel_pos_linear = linear(config.dim // config.heads, 8)
            self.gru_rel_pos_const = nn.Parameter(torch.ones(1, config.heads, 1, 1))
        if has_table and config.position_bias != "none":
            self.rel_attn_embed = RelativePositionTable(config)

    def gate(self, x: Tensor) -> Tensor:
        """The factor on the position bias, from the hidden state itself: not from the projected query.

        a, b = σ(sums over 4 rows each of an 8-row projection shared by the heads); gate = a·(b·s − 1) + 2.

        Args:
            x: input of the attention, `(batch, frames, dim)`.

        Returns:
            `(batch, heads, frames, 1)`; 1.75 everywhere before training.
        """
        batch, frames, _ = x.shape
        # Summing the rows of the weight first gives the same two numbers for a quarter of the work; the parameter
        # keeps its 8 rows because checkpoints do.
        weight = self.gru_rel_pos_linear.weight.unflatten(0, (2, 4)).sum(1)
        bias = self.gru_rel_pos_linear.bias.unflatten(0, (2, 4)).sum(1)
        a, b = torch.sigmoid(F.linear(x.view(batch, frames, self.heads, -1), weight, bias)).unbind(-1)
        scale = self.gru_rel_pos_const.view(1, 1, self.heads)
        return (a * (b * scale - 1.0) + 2.0).transpose(1, 2).contiguous().unsqueeze(-1)

    def forward(self, x: Tensor, table: Tensor | None, bias: Tensor | None) -> Tensor:
        """Attend.

        Args:
            x: `(batch, frames, dim)`.
            table: position bias that this layer gates, `(heads, frames, frames)`, in the precision of the
                computation; None where there are no gates.
            bias: what all layers add alike, `(1 or batch, 1 or heads, 1 or frames, frames)`: minus infinity for
                padding, and the position bias where it has no gate; None if there is nothing to add.

        Returns:
            `(batch, frames, dim)`.
        """
        # One product for the three projections; the parameters stay apart because checkpoints have them so.
        projections = (self.q_proj, self.k_proj, self.v_proj)
        weight = torch.cat([projection.weight for projection in projections])
        projected = F.linear(x, weight, torch.cat([projection.bias for projection in projections]))
        query, key, value = projected.unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        if table is not None:
            gate = self.gate(x).to(table.dtype)
            bias = gate * table if bias is None else torch.addcmul(bias, gate, table)
        dropout = self.dropout if self.training else 0.0
        attended = attend(query, key, value, bias, dropout)
        return self.out_proj(attended.transpose(1, 2).flatten(2))
