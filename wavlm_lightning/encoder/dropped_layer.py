"""The autograd function of a layer that LayerDrop skips: its parameters get zero gradients instead of none."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class DroppedLayer(torch.autograd.Function):
    """A layer that LayerDrop skips: the input unchanged, and zeros as gradients of the layer's parameters.

    Parameters without a gradient would have two consequences. DDP waits for the gradient of every parameter, unless it
    searches the graph for missing ones in every step. And Adam neither decays nor moves a parameter without gradient,
    but does so in training on several processes, one of which ran the layer: training on one process would differ. With
    zeros all take the same step, driven by momentum and weight decay.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Tensor | None) -> Tensor:
        """Return `x`; the others (parameters, position biases) only join the graph."""
        ctx.save_for_backward(*others)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        zeros = (
            torch.zeros_like(other) if needed else None
            for other, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        )
        return gradient, *zeros
