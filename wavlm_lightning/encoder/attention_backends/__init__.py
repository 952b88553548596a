"""Scaled dot-product attention with a gated relative position bias: one interface, three ways to compute it.

- `sdpa` adds the bias as a mask in torch's fused kernels.
- `recomputed` keeps no frames-by-frames tensor for the backward pass (`blocks` cuts attention into pieces,
  `replayed_dropout` draws the same dropout in both passes).
- `flex` computes the bias inside a fused kernel on CUDA; it is used only on request, because it was not measured.

`attend` calls one of them, `choose` picks one. Tests: `tests/encoder/test_encoder_attention*.py`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavlm_lightning.encoder.attention_backends import flex, recomputed, sdpa

BACKENDS = {"sdpa": sdpa.attend, "recomputed": recomputed.attend, "flex": flex.attend}


def choose(device: torch.device, dtype: torch.dtype, biased: bool, dropout: float) -> str:
    """The fastest exact backend, a key of `BACKENDS`, whose memory grows with the frames, not with their square."""
    if device.type != "cpu":
        return "recomputed" if biased and torch.is_grad_enabled() else "sdpa"
    if torch.is_grad_enabled():  # the CPU's fused kernel gives no gradient to a bias and knows no dropout
        return "recomputed" if biased or dropout else "sdpa"
    # Without gradients plain bf16 products are faster than the CPU's fused kernel; fp32 ones are not.
    return "recomputed" if biased and dtype == torch.bfloat16 else "sdpa"


def attend(
    backend: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    table: Tensor | None = None,
    gate: Tensor | None = None,
    padding: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """softmax(q kᵀ / √d + gate · table[offset]) v.

    Args:
        backend: a key of `BACKENDS`.
        query: `(batch, heads, frames, head dim)`, like `key` and `value`.
        key: see `query`.
        value: see `query`.
        table: position bias, `(heads, 2 * frames - 1)` in the order of `RelativePositionTable`; where the frames are not
            consecutive, that of each pair, `(batch, heads, frames, frames)` with the keys in reverse order; None without bias.
        gate: factor on it for each query, `(batch, heads, frames)`; None for 1. Table and gate have the precision of
            the query.
        padding: bool `(batch, frames)`, true where a frame is padding, always at the end of a row; None without padding.
        dropout: probability that an attention weight is dropped.

    Returns:
        `(batch, heads, frames, head dim)`; where the query is padding, values are arbitrary but finite.
    """
    return BACKENDS[backend](query, key, value, table, gate, padding, dropout)
