"""Attention by torch's fused kernels, with the position bias in an additive mask."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from wavlm_lightning.encoder.attention_backends.blocks import scratch, split, take, valid_lengths


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    gate: Tensor | None,
    padding: Tensor | None,
    dropout: float,
) -> Tensor:
    """See `attention_backends.attend`. Without gradients the mask is computed block by block."""
    if table is None or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return attend_whole(query, key, value, table, gate, padding, dropout)
    # On a CPU the blocks leave padding out. Elsewhere reading the lengths would wait for the device, so it is masked.
    on_cpu = query.device.type == "cpu"
    lengths = valid_lengths(query, padding if on_cpu else None)
    blocks = split(query, lengths)
    memory = scratch(blocks, query)
    batch, heads, frames, size = query.shape
    attended = query.new_zeros(batch, frames, heads, size).transpose(1, 2)
    for block in blocks:
        bias = block.bias(table, gate, take(memory, block))
        if padding is not None and not on_cpu:
            bias.masked_fill_(padding[block.rows].flip(1)[:, None, None, :], -torch.inf)
        parts = (block.rows, block.heads)
        attended[*parts, block.queries] = F.scaled_dot_product_attention(
            query[*parts, block.queries],
            key[*parts, : block.keys].flip(2),
            value[*parts, : block.keys].flip(2),
            attn_mask=bias,
            dropout_p=dropout,
        )
    return attended


def attend_whole(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    gate: Tensor | None,
    padding: Tensor | None,
    dropout: float,
) -> Tensor:
    """Attention in one call, with gradients; autograd keeps the mask of every layer for the backward pass."""
    mask = None
    if padding is not None:
        zeros = torch.zeros(padding.shape, dtype=query.dtype, device=query.device)
        mask = zeros.masked_fill(padding, -torch.inf)[:, None, None, :]
    if table is not None:
        key, value = key.flip(2), value.flip(2)
        windows = table if table.dim() == 4 else table.unfold(1, query.shape[2], 1)[None]
        mask = None if mask is None else mask.flip(3)
        if gate is None:
            mask = windows.contiguous() if mask is None else mask + windows
        else:
            mask = gate[..., None] * windows if mask is None else torch.addcmul(mask, gate[..., None], windows)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=mask, dropout_p=dropout)
