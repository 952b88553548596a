"""The front-end with its convolutions of stride 2 as matrix products (`strided_products`), for training and inference.

In training, the backward pass computes the input of each convolution again instead of keeping it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from wavlm_lightning.encoder.cpu import strided_products
from wavlm_lightning.encoder.cpu.folded_norm import FoldedConvolution
from wavlm_lightning.encoder.cpu.strided_products import convolve, gradients
from wavlm_lightning.encoder.cpu.weight_cache import kept


class Layer(Protocol):
    """One layer of the front-end; see `frontend.ConvLayer`."""

    conv: nn.Conv1d
    layer_norm: nn.Module | None

    def norm_parameters(self) -> tuple[Tensor, ...]: ...

    def activate(self, x: Tensor, *norm: Tensor) -> Tensor: ...


def fast_path(layers: Sequence[Layer], waveforms: Tensor) -> Callable[..., Tensor] | None:
    """`multiply` as a function `(waveforms, folded, trained) -> features`; None where it does not apply."""
    convolutions = [layer.conv for layer in layers[1:]]
    if not convolutions or not strided_products.usable(convolutions, waveforms):
        return None
    # Laid out once for all chunks of the batch.
    matrices = [kept("taps", (conv.weight,)) or strided_products.taps(conv.weight) for conv in convolutions]
    return partial(multiply, layers, matrices)


def multiply(
    layers: Sequence[Layer],
    matrices: list[tuple[Tensor, ...]],
    waveforms: Tensor,
    folded: FoldedConvolution | None,
    trained: bool,
) -> Tensor:
    """Run the front-end: `(rows, samples)` to `(rows, frames, channels)`.

    `matrices` is what `strided_products.taps` gives, of each convolution but the first. `folded` is the first
    convolution with its group norm folded in, or None without group norm.
    """
    first = layers[0]
    make: Callable[..., Tensor] = partial(_first_activations, first)
    if folded is not None:
        inputs: tuple[Tensor, ...] = (waveforms, folded.centre, folded.weight, folded.bias)
    else:
        inputs = (waveforms, *first.conv.parameters(), *first.norm_parameters())
    for layer, own in zip(layers[1:], matrices, strict=True):
        x = convolve_made(make, inputs, own) if trained else convolve(make(*inputs), own)
        if layer.conv.bias is not None:
            x = x + layer.conv.bias
        make, inputs = layer.activate, (x, *layer.norm_parameters())
    return make(*inputs)


def _first_activations(layer: Layer, waveforms: Tensor, *parameters: Tensor) -> Tensor:
    """The input of the second convolution, `(rows, steps, channels)`; `parameters` are those that need gradients."""
    kernel, stride = layer.conv.kernel_size[0], layer.conv.stride[0]
    if isinstance(layer.layer_norm, nn.GroupNorm):
        centre, weight, bias = parameters
        return layer.activate(FoldedConvolution(centre, weight, bias, stride)(waveforms, time_major=True))
    filters, *biases = parameters[:-2]
    return layer.activate(F.linear(waveforms.unfold(1, kernel, stride), filters[:, 0], *biases), *parameters[-2:])


def convolve_made(make: Callable[..., Tensor], inputs: tuple[Tensor, ...], matrices: tuple[Tensor, ...]) -> Tensor:
    """Convolve `make(*inputs)`; only the inputs are kept for the backward pass, which calls `make` again.

    `make` gives `(rows, steps, channels)`; its arguments must be all it uses that needs a gradient. torch's
    checkpointing would repeat the convolution as well: it cannot look into an autograd function.
    """
    return _RecomputedInput.apply(make, len(matrices), *matrices, *inputs)


class _RecomputedInput(torch.autograd.Function):
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
