"""LayerDrop's part in the backward pass."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class DroppedLayer(torch.autograd.Function):
    """A layer that LayerDrop skips: the input unchanged, and zeros as gradients of the layer's parameters.

    Parameters without a gradient would make two differences. Data-parallel training waits for the gradient of every
    parameter, unless it searches the graph for missing ones in every step. And Adam neither decays nor moves a
    parameter without gradient, while the average over several processes, one of which ran the layer, is a gradient:
    one process would not train like many. With zeros both take the same step, driven by momentum and weight decay.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, *others: Tensor | None) -> Tensor:
        """`x`; the others (parameters, position biases) only join the graph."""
        ctx.save_for_backward(*others)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """The gradient of `x`, and zeros."""
        zeros = (
            torch.zeros_like(other) if needed else None
            for other, needed in zip(ctx.saved_tensors, ctx.needs_input_grad[1:], strict=True)
        )
        return gradient, *zeros
