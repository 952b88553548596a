"""Scaled dot-product attention with a gated relative position bias: one interface, three ways to compute it.

`sdpa` adds the bias as a mask in torch's fused kernels. `recomputed` keeps nothing of frames by frames for the backward
pass. `flex` makes the bias inside a fused kernel on CUDA; it is never chosen unasked, because nobody has measured it.
A hand-written kernel is not here for the same reason.
"""

from __future__ import annotations

import torch
from torch import Tensor

from wavlm_lightning.encoder.attention_backends import flex, recomputed, sdpa

BACKENDS = {"sdpa": sdpa.attend, "recomputed": recomputed.attend, "flex": flex.attend}


def choose(device: torch.device, dtype: torch.dtype, biased: bool, dropout: float) -> str:
    """The fastest exact backend whose memory grows with the frames, not with their square.

    Args:
        device: on which attention runs.
        dtype: precision of its products.
        biased: whether there is a position bias.
        dropout: probability that an attention weight is dropped.

    Returns:
        A key of `BACKENDS`.
    """
    if device.type != "cpu":
        return "recomputed" if biased and torch.is_grad_enabled() else "sdpa"
    if torch.is_grad_enabled():  # the CPU's fused kernel gives no gradient to a bias and knows no dropout
        return "recomputed" if biased or dropout else "sdpa"
    return "recomputed" if biased and dtype == torch.bfloat16 else "sdpa"  # its bf16 products beat the fused kernel


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
        table: position bias, `(heads, 2 * frames - 1)` in the order of `RelativePositionTable`; None for none.
        gate: factor on it for each query, `(batch, heads, frames)`; None for 1. Table and gate have the precision of
            the query.
        padding: bool `(batch, frames)`, true where a frame is padding, which lies at the end; None if none is.
        dropout: probability that an attention weight is dropped.

    Returns:
        `(batch, heads, frames, head dim)`; anything finite where the query is padding.
    """
    return BACKENDS[backend](query, key, value, table, gate, padding, dropout)
