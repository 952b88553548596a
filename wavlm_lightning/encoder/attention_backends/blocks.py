"""Cutting the frames-by-frames tensors of attention into blocks that are computed one after the other in the same memory.

Keys and values are taken in reverse order: the position bias of query i is then a window of the table that begins at
entry i, a view without a copy (see `RelativePositionTable`). Attention does not depend on the order of the keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CACHE_BYTES = 4 * 2**20  # size of a block on a CPU: its few tensors stay in the last-level cache
DEVICE_BYTES = 256 * 2**20  # size of a block on other devices: large enough to keep a GPU busy
FEWEST_QUERIES = 64  # products with fewer rows are slow, so long utterances make larger blocks, up to `LARGEST_BYTES`
LARGEST_BYTES = 64 * 2**20


@dataclass(frozen=True)
class Block:
    """A range of queries of some heads of some utterances, with all keys that any of these utterances has."""

    rows: slice
    heads: slice
    queries: slice
    keys: int  # number of keys, from frame 0
    short: tuple[int, ...]  # for each utterance, the number of these keys that are padding

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Shape of the logits: `(rows, heads, queries, keys)`."""
        rows, heads, queries = (part.stop - part.start for part in (self.rows, self.heads, self.queries))
        return rows, heads, queries, self.keys

    def of(self, x: Tensor) -> Tensor:
        """The block's part of queries: `(batch, heads, frames, head dim)` to `(rows * heads, queries, head dim)`."""
        return x[self.rows, self.heads, self.queries].flatten(0, 1)

    def reversed_keys(self, x: Tensor) -> Tensor:
        """The block's keys or values, last one first, `(rows * heads, keys, head dim)`."""
        return x[self.rows, self.heads, : self.keys].flip(2).flatten(0, 1)

    def add_reversed(self, total: Tensor, part: Tensor) -> None:
        """Add the gradient of what `reversed_keys` gave to the gradient `total`, `(batch, heads, frames, head dim)`."""
        rows, heads, _, keys = self.shape
        total[self.rows, self.heads, :keys] += part.view(rows, heads, keys, -1).flip(2)

    def windows(self, table: Tensor) -> Tensor:
        """Position bias before gating, a view `(heads, queries, keys)` of the table `(heads, 2 * frames - 1)`.

        Of a table of pairs, `(batch, heads, frames, frames)`, a view `(rows, heads, queries, keys)`.
        """
        if table.dim() == 4:
            return table[self.rows, self.heads, self.queries, table.shape[3] - self.keys :]
        frames = (table.shape[1] + 1) // 2
        return table[self.heads, frames - self.keys : frames + self.keys - 1].unfold(1, self.keys, 1)[:, self.queries]

    def bias(self, table: Tensor | None, gate: Tensor | None, out: Tensor) -> Tensor:
        """Write the gated position bias, and minus infinity for padding, into `out`, `(rows, heads, queries, keys)`.

        `table` is as in `attend`, `gate` `(batch, heads, frames)`, or None for gates of 1.
        """
        if table is None:
            out.zero_()
        elif gate is None:
            out.copy_(self.windows(table))
        else:
            torch.mul(gate[self.rows, self.heads, self.queries, None], self.windows(table), out=out)
        for row, short in enumerate(self.short):
            if short:
                out[row, :, :, :short] = -torch.inf  # keys are reversed: padding comes first
        return out


def valid_lengths(x: Tensor, padding: Tensor | None) -> list[int]:
    """Valid frames of each utterance of `(batch, heads, frames, head dim)`; waits for the device if padded."""
    return [x.shape[2]] * len(x) if padding is None else (~padding).sum(1).tolist()


def split(x: Tensor, lengths: list[int]) -> list[Block]:
    """Cut attention into blocks: whole utterances where several fit, else heads of one, else queries of one head.

    Frames that are padding in all utterances of a block are left out, as keys and as queries. `x` are the queries,
    `(batch, heads, frames, head dim)`, whose device and precision decide on the size of a block.
    """
    heads, size = x.shape[1], x.element_size()
    budget = (CACHE_BYTES if x.device.type == "cpu" else DEVICE_BYTES) // size
    blocks, row = [], 0
    while row < len(lengths):
        stop, keys = row + 1, lengths[row]
        while stop < len(lengths) and (stop + 1 - row) * heads * max(keys, lengths[stop]) ** 2 <= budget:
            keys = max(keys, lengths[stop])
            stop += 1
        if keys:
            together = min(heads, max(1, budget // keys**2))
            queries = max(budget // (together * keys), min(FEWEST_QUERIES, LARGEST_BYTES // size // keys), 1)
            blocks += [
                Block(
                    slice(row, stop),
                    slice(head, min(head + together, heads)),
                    slice(query, min(query + queries, keys)),
                    keys,
                    tuple(keys - length for length in lengths[row:stop]),
                )
                for head in range(0, heads, together)
                for query in range(0, keys, queries)
            ]
        row = stop
    return blocks


def scratch(blocks: list[Block], like: Tensor) -> Tensor:
    """Memory for one frames-by-frames tensor of the largest block; `take` makes views of it."""
    return like.new_empty(max((torch.Size(block.shape).numel() for block in blocks), default=0))


def take(memory: Tensor, block: Block) -> Tensor:
    """A tensor `(rows, heads, queries, keys)` in memory from `scratch`."""
    return memory[: torch.Size(block.shape).numel()].view(block.shape)
