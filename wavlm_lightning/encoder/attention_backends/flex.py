"""Attention by FlexAttention: the position bias is computed inside the fused kernel, in both passes.

Not measured on a GPU. Facts read from torch 2.11: a captured tensor that needs a gradient may be indexed only once, so
the table has one entry per offset instead of 320 buckets, which would also collide more in the atomic additions of its
gradient; only the Triton kernel has a backward pass for such scores.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

SCORE = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    gate: Tensor | None,
    padding: Tensor | None,
    dropout: float,
) -> Tensor:
    """See `attention_backends.attend`."""
    from torch.nn.attention.flex_attention import flex_attention

    if dropout:
        raise ValueError(
            f"attention backend flex has no dropout; set attention_dropout to 0 instead of {dropout:g} or choose recomputed"
        )
    run = _compiled() if query.is_cuda and not torch.compiler.is_compiling() else flex_attention
    score = score_mod(query.shape[2], table, gate, None if padding is None else (~padding).sum(1))
    return run(query, key, value, score_mod=score)


def score_mod(frames: int, table: Tensor | None, gate: Tensor | None, lengths: Tensor | None) -> SCORE | None:
    """Adds position bias and padding mask to the score of a query and a key; None if there is neither."""

    def position(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        if table is None:
            return score
        of_pair = table.dim() == 4
        bias = table[batch, head, query, frames - 1 - key] if of_pair else table[head, query - key + (frames - 1)]
        return score + (bias if gate is None else gate[batch, head, query] * bias)

    def position_and_padding(score: Tensor, batch: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        assert lengths is not None
        return torch.where(key < lengths[batch], position(score, batch, head, query, key), -torch.inf)

    if lengths is not None:
        return position_and_padding
    return None if table is None else position


@cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)
