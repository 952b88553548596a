"""A convolution whose input is made once more in the backward pass instead of being kept."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from wavlm_lightning.encoder.cpu.strided_products import convolve, gradients


def convolve_made(make: Callable[..., Tensor], inputs: tuple[Tensor, ...], matrices: tuple[Tensor, ...]) -> Tensor:
    """Convolve what `make` makes of its inputs; only these are kept for the backward pass, which calls it again.

    Checkpointing would not do: it would repeat the convolution as well, as it cannot look into a function with a
    backward pass of its own.

    Args:
        make: gives `(rows, steps, channels)`; it must use nothing that needs a gradient but its arguments.
        inputs: its arguments.
        matrices: what `strided_products.taps` gave.

    Returns:
        `(rows, (steps - kernel) // 2 + 1, outputs)`.
    """
    return _Convolution.apply(make, len(matrices), *matrices, *inputs)


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, make: Callable[..., Tensor], count: int, *tensors: Tensor) -> Tensor:
        ctx.make, ctx.count = make, count
        ctx.save_for_backward(*tensors)
        return convolve(make(*tensors[count:]).contiguous(), tensors[:count])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        count, needed = ctx.count, ctx.needs_input_grad[2 + ctx.count :]
        matrices, inputs = ctx.saved_tensors[:count], ctx.saved_tensors[count:]
        again = [x.detach().requires_grad_(need) for x, need in zip(inputs, needed, strict=True)]
        with torch.enable_grad():
            made = ctx.make(*again)
        to_made, to_matrices = gradients(made.detach().contiguous(), matrices, gradient, any(needed))
        found: Any = iter(())
        if any(needed):
            wanted = [x for x, need in zip(again, needed, strict=True) if need]
            found = iter(torch.autograd.grad(made, wanted, to_made))
        return None, None, *to_matrices, *(next(found) if need else None for need in needed)
