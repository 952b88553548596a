"""Attention dropout that the backward pass can draw again from a seed, four weights per random number."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavlm_lightning.encoder.attention_backends.blocks import Block, scratch, take

LANES = 2**16


@dataclass(frozen=True)
class LaneDropout:
    """Which attention weights are dropped, as a seed instead of a tensor.

    On a CPU torch draws one random number per weight, which takes longer than all products of attention together. Here
    each 64-bit draw decides on four weights, with 16 bits each. The probability is rounded to a multiple of 1 / 65,536,
    and the weights that stay are scaled by exactly that.
    """

    seed: int
    dropped: int  # how many of the 65,536 values of 16 bits drop a weight

    @classmethod
    def draw(cls, probability: float) -> LaneDropout | None:
        """Draw the seed for one attention; None if the probability is 0."""
        dropped = min(round(probability * LANES), LANES - 1)
        # From torch's generator of the CPU: activation checkpointing restores its state, and it follows the run's seed.
        return cls(int(torch.randint(2**62, ())), dropped) if dropped else None

    @property
    def scale(self) -> float:
        """Factor on the weights that stay, 1 / (1 − p)."""
        return LANES / (LANES - self.dropped)


class Factors:
    """Dropout masks, block after block: 1 for each weight that stays, 0 for each that is dropped.

    Both passes must ask for the blocks in the same order. The masks have the precision and device of `like`.
    """

    def __init__(self, dropout: LaneDropout, blocks: list[Block], like: Tensor):
        self.generator = torch.Generator(like.device).manual_seed(dropout.seed)
        self.memory = scratch(blocks, like)
        self.draws = torch.empty(-(-self.memory.numel() // 4), dtype=torch.int64, device=like.device)
        self.least = dropout.dropped - LANES // 2

    def next(self, block: Block) -> Tensor:
        """`(rows, heads, queries, keys)`, valid until the next call."""
        factors = take(self.memory, block)
        draws = self.draws[: -(-factors.numel() // 4)].random_(-(2**63), None, generator=self.generator)
        lanes = draws.view(torch.int16)[: factors.numel()].view(factors.shape)
        return torch.ge(lanes, self.least, out=factors)
