"""Convolutions of stride 2 as matrix products over time-major steps, on a CPU in fp32.

With three taps, y[t] = W0 x[2t] + W1 x[2t + 1] + W2 x[2t + 2]. The outputs 2s and 2s + 1 both see e = x[4s + 2], so

    y[2s]     = W0 (x[4s] - e)     + (W0 + W2) e + W1 x[4s + 1]
    y[2s + 1] = W2 (x[4s + 4] - e) + (W0 + W2) e + W1 x[4s + 3]

are five products instead of six: Winograd's F(2, 2) (arXiv 1509.09308, section 3) on the even steps. Both gradients save
the same sixth. Two taps need all their products, but these are faster than the gradients of a convolution. All products
are oneDNN's, as is torch's own convolution on CPUs.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder.cpu.onednn import has_onednn, onednn_product

KINDS = {(3, 2), (2, 2)}  # (kernel, stride) of the supported convolutions

# Fewest channels for which products are used; fewer were not measured, and their tensors fit into the caches anyway.
NARROWEST = 512


def usable(convolutions: Sequence[nn.Conv1d], waveforms: Tensor) -> bool:
    """Whether these convolutions, without a front-end's first, can be computed by products, and it is faster."""
    # The exact type: subclasses (DTensor, fake tensors of tracing) cannot enter the private operators.
    if waveforms.device.type != "cpu" or waveforms.dtype != torch.float32 or type(waveforms) is not Tensor:
        return False
    if torch.compiler.is_compiling() or torch.is_autocast_enabled("cpu") or not has_onednn():
        return False
    return all(
        (conv.kernel_size[0], conv.stride[0]) in KINDS
        and min(conv.in_channels, conv.out_channels) >= NARROWEST
        and conv.weight.dtype == torch.float32
        and type(conv.weight) in (Tensor, nn.Parameter)
        for conv in convolutions
    )


def taps(weight: Tensor) -> tuple[Tensor, ...]:
    """The matrices that `convolve` multiplies with, from a weight `(outputs, inputs, kernel)`.

    For two taps one matrix `(outputs, 2 * inputs)`, the taps side by side; for three W0, W1, W2 and W0 + W2.
    """
    if weight.shape[2] == 2:
        return (weight.mT.flatten(1),)
    first, second, third = weight.permute(2, 0, 1).contiguous().unbind()
    return first, second, third, first + third


def convolve(x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
    """Contiguous `(rows, steps, inputs)` to `(rows, (steps - kernel) // 2 + 1, outputs)`, without gradients."""
    forward = _pairs if len(matrices) == 1 else _triples
    rows = [forward(row, matrices) for row in x]
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def gradients(
    x: Tensor, matrices: tuple[Tensor, ...], gradient: Tensor, to_input: bool = True
) -> tuple[Tensor | None, tuple[Tensor, ...]]:
    """The gradients of `convolve`'s input (None if not wanted) and of its matrices, which must not be packed."""
    backward = _pairs_backward if len(matrices) == 1 else _triples_backward
    to_x = torch.empty_like(x) if to_input else None
    total: tuple[Tensor, ...] = ()
    for number, row in enumerate(x):
        parts = backward(row, matrices, gradient[number].contiguous(), None if to_x is None else to_x[number])
        total = tuple(map(torch.add, total, parts)) if total else parts
    return to_x, total


def _pairs(x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
    return onednn_product(_joined(x), matrices[0])


def _joined(x: Tensor) -> Tensor:
    """Steps two by two, `(steps // 2, 2 * inputs)`, without a copy."""
    steps, inputs = x.shape
    return x[: steps // 2 * 2].view(-1, 2 * inputs)


def _pairs_backward(
    x: Tensor, matrices: tuple[Tensor, ...], gradient: Tensor, to_x: Tensor | None
) -> tuple[Tensor, ...]:
    if to_x is not None:
        _joined(to_x).copy_(onednn_product(gradient, matrices[0].t()))
        to_x[2 * len(gradient) :] = 0
    return (onednn_product(gradient.t(), _joined(x).t()),)


def _triples(x: Tensor, matrices: tuple[Tensor, ...]) -> Tensor:
    """`(steps, inputs)` to `((steps - 3) // 2 + 1, outputs)`."""
    first, second, third, outer = matrices
    steps = (len(x) - 3) // 2 + 1
    before, shared, after, between = _inputs_of_pairs(x, steps)
    y = onednn_product(between, second)
    common = onednn_product(shared, outer)
    y[0::2] += onednn_product(before - shared, first).add_(common)
    if len(after):
        common = common[: len(after)]
        y[1::2] += onednn_product(after - shared[: len(after)], third).add_(common)
    return y


def _triples_backward(
    x: Tensor, matrices: tuple[Tensor, ...], gradient: Tensor, to_x: Tensor | None
) -> tuple[Tensor, ...]:
    first, second, third, outer = matrices
    steps = len(gradient)
    # Contiguous copies: for factors with gaps oneDNN falls back to a far slower kernel for products over steps.
    before, shared, after, between = (part.contiguous() for part in _inputs_of_pairs(x, steps))
    even, odd = gradient[0::2].contiguous(), gradient[1::2].contiguous()
    both = even.clone()
    both[: len(odd)] += odd
    if to_x is not None:
        to_before, to_shared, to_after, to_between = _inputs_of_pairs(to_x, steps)
        to_between.copy_(onednn_product(gradient, second.t()))
        to_x[2 * steps :] = 0  # behind the last pair: `to_after` adds to the first of these, no output sees the others
        through_first, through_both = onednn_product(even, first.t()), onednn_product(both, outer.t())
        torch.sub(through_both, through_first, out=to_shared)
        to_before.copy_(through_first)
        if len(odd):
            through_third = onednn_product(odd, third.t())
            to_shared[: len(odd)] -= through_third
            to_after += through_third
    to_third = torch.zeros_like(third)
    if len(odd):
        to_third = onednn_product(odd.t(), (after - shared[: len(odd)]).t())
    return (
        onednn_product(even.t(), (before - shared).t()),
        onednn_product(gradient.t(), between.t()),
        to_third,
        onednn_product(both.t(), shared.t()),
    )


def _inputs_of_pairs(x: Tensor, steps: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Views: x[4s], x[4s + 2] and x[4s + 4] for each pair s of outputs, and x[2t + 1] for each output t."""
    even, odd = (steps + 1) // 2, steps // 2
    return x[0 : 4 * even - 3 : 4], x[2 : 4 * even - 1 : 4], x[4 : 4 * odd + 1 : 4], x[1 : 2 * steps : 2]
