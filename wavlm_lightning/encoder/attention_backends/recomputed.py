"""Attention that keeps no frames-by-frames tensor: the backward pass computes bias and attention weights again."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from wavlm_lightning.encoder.attention_backends.blocks import DEVICE_BYTES, Block, scratch, split, take, valid_lengths
from wavlm_lightning.encoder.attention_backends.replayed_dropout import Factors, LaneDropout
from wavlm_lightning.encoder.attention_backends.sdpa import attend_whole

# Operators of torch 2.11 below its public interface, which has no gradient of softmax that writes into given memory.
softmax_out = torch.ops.aten._softmax.out
softmax_backward_out = torch.ops.aten._softmax_backward_data.out


def attend(query: Tensor, *others: Any) -> Tensor:
    """See `attention_backends.attend`; `others` are the rest of its arguments, from `key` to `dropout`."""
    # The fused kernel of the CPU gives no gradient to a bias.
    return attend_in_blocks(query, *others) if query.device.type == "cpu" else attend_again(query, *others)


def attend_again(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    gate: Tensor | None,
    padding: Tensor | None,
    dropout: float,
) -> Tensor:
    """By torch's fused kernel, which runs again in the backward pass, for `DEVICE_BYTES` of mask at a time."""
    batch, heads, frames, _ = query.shape
    # For the compiler the number of frames is a symbol; cutting the batch by it would recompile for each length.
    compiling = torch.compiler.is_compiling()
    rows = batch if compiling else max(1, DEVICE_BYTES // (heads * frames**2 * query.element_size()))
    parts = [
        checkpoint(
            attend_whole,
            *(x[start : start + rows] for x in (query, key, value)),
            table[start : start + rows] if table is not None and table.dim() == 4 else table,
            None if gate is None else gate[start : start + rows],
            None if padding is None else padding[start : start + rows],
            dropout,
            use_reentrant=False,
            preserve_rng_state=dropout > 0,
        )
        for start in range(0, batch, rows)
    ]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


@torch.compiler.disable
def attend_in_blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    table: Tensor | None,
    gate: Tensor | None,
    padding: Tensor | None,
    dropout: float,
) -> Tensor:
    """By plain products; outputs at padding frames are zeros or those of an ordinary query."""
    lengths = valid_lengths(query, padding)
    with torch.autocast(query.device.type, enabled=False):  # it would cast the softmax to fp32 and back
        return BlockAttention.apply(query, key, value, table, gate, lengths, LaneDropout.draw(dropout))


class BlockAttention(torch.autograd.Function):
    """Scaled dot-product attention with a gated position bias, block by block in both passes."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        table: Tensor | None,
        gate: Tensor | None,
        lengths: list[int],
        dropout: LaneDropout | None,
    ) -> Tensor:
        ctx.save_for_backward(query, key, value, table, gate)
        ctx.lengths, ctx.dropout = lengths, dropout
        batch, heads, frames, size = query.shape
        attended = query.new_zeros(batch, frames, heads, size).transpose(1, 2)
        blocks = split(query, lengths)
        memory = scratch(blocks, query)
        factors = Factors(dropout, blocks, query) if dropout else None
        for block in blocks:
            weights = _weights(block, query, block.reversed_keys(key), table, gate, memory)
            if factors:
                weights.mul_(factors.next(block))
            part = torch.bmm(weights.flatten(0, 1), block.reversed_keys(value))
            if dropout:
                part *= dropout.scale
            attended[block.rows, block.heads, block.queries] = part.view(*block.shape[:3], size)
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, table, gate = ctx.saved_tensors
        dropout: LaneDropout | None = ctx.dropout
        scale = query.shape[-1] ** -0.5
        # zeros_like keeps the layout of the projections, so the gradients need no copy on their way back.
        to_query, to_key, to_value = (torch.zeros_like(x) for x in (query, key, value))
        # Sums over many pairs need fp32; a table of pairs has none.
        exact = torch.float32 if table is not None and table.dim() == 2 else None
        to_table = None if table is None else torch.zeros(table.shape, dtype=exact or table.dtype, device=table.device)
        to_gate = None if gate is None else torch.zeros_like(gate)
        blocks = split(query, ctx.lengths)
        memory, second = scratch(blocks, query), scratch(blocks, query)
        factors = Factors(dropout, blocks, query) if dropout else None
        diagonals = Diagonals(blocks, query) if table is not None and table.dim() == 2 else None
        with torch.autocast(query.device.type, enabled=False):
            for block in blocks:
                keys, incoming = block.reversed_keys(key), block.of(gradient)
                weights = _weights(block, query, keys, table, gate, memory)
                to_weights = take(second, block)
                torch.bmm(incoming, block.reversed_keys(value).mT, out=to_weights.flatten(0, 1))
                used = weights
                if dropout and factors:
                    kept = factors.next(block).mul_(dropout.scale)
                    to_weights.mul_(kept)
                    used = kept.mul_(weights)
                block.add_reversed(to_value, torch.bmm(used.flatten(0, 1).mT, incoming))
                softmax_backward_out(to_weights, weights, -1, weights.dtype, grad_input=to_weights)
                to_logits = to_weights.flatten(0, 1)
                part = torch.bmm(to_logits, keys).mul_(scale)
                to_query[block.rows, block.heads, block.queries] = part.view(*block.shape[:3], -1)
                block.add_reversed(to_key, torch.bmm(to_logits.mT, block.of(query)).mul_(scale))
                if to_table is not None and diagonals:
                    diagonals.add(block, to_weights, gate, to_table)
                elif to_table is not None:
                    factor = 1.0 if gate is None else gate[block.rows, block.heads, block.queries, None]
                    torch.mul(to_weights, factor, out=block.windows(to_table))
                if to_gate is not None:
                    terms = torch.mul(to_weights, block.windows(table), out=weights)
                    to_gate[block.rows, block.heads, block.queries] = terms.sum(-1)
        to_table = None if to_table is None else to_table.to(table.dtype)
        return to_query, to_key, to_value, to_table, to_gate, None, None


class Diagonals:
    """The table's gradient: sums of the logits' gradient over all pairs of query and key with the same offset.

    Rows are copied into a wider buffer of zeros, each shifted one step further to the right than the row before, so that
    each offset is one column. The buffer has the precision and device of `like`.
    """

    def __init__(self, blocks: list[Block], like: Tensor):
        sizes = [rows * heads * queries * (queries + keys) for rows, heads, queries, keys in (b.shape for b in blocks)]
        self.memory = like.new_empty(max(sizes, default=0))
        self.shape: tuple[int, ...] = ()

    def add(self, block: Block, to_logits: Tensor, gate: Tensor | None, total: Tensor) -> None:
        """Add the gradient of a block's logits, `(rows, heads, queries, keys)`, to the table's `total`."""
        rows, heads, queries, keys = block.shape
        width = queries + keys - 1
        wide = self.memory[: rows * heads * queries * (width + 1)].view(rows * heads, -1)
        if block.shape != self.shape:  # for the same shape the zeros between the rows are still in place
            wide.zero_()
            self.shape = block.shape
        wide.view(rows, heads, queries, width + 1)[..., :keys] = to_logits
        skewed = wide[:, : queries * width].view(rows * heads, queries, width)
        sums = skewed.sum(1, dtype=total.dtype) if gate is None else torch.bmm(block.of(gate[..., None]).mT, skewed)
        first = (total.shape[1] + 1) // 2 - keys + block.queries.start
        total[block.heads, first : first + width] += sums.view(rows, heads, width).sum(0)


def _weights(
    block: Block, query: Tensor, keys: Tensor, table: Tensor | None, gate: Tensor | None, memory: Tensor
) -> Tensor:
    """Attention weights of a block before dropout, `(rows, heads, queries, keys)`, in `memory`."""
    logits = block.bias(table, gate, take(memory, block))
    logits.flatten(0, 1).baddbmm_(block.of(query), keys.mT, alpha=query.shape[-1] ** -0.5)
    return softmax_out(logits, -1, False, out=logits)
