"""The positional convolution (128 taps, grouped) by Fourier transforms over frames, on a CPU, with gradients.

Frames are taken in overlapping blocks of twice the kernel (overlap-save: Oppenheim & Schafer, Discrete-Time Signal
Processing, section 8.7.3). The Fourier transforms are products with a matrix of cosines and sines, so the channels stay
contiguous; between the transforms, each frequency has its own matrix product over channels. Real and imaginary parts are
stored one after the other, so all tensors are real.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# Fewest frames of a batch for which this is faster, the spectrum of the weights included. A cached spectrum must not
# lower it: a prepared encoder gives the same bits.
FEWEST_FRAMES = 400

# Fewest multiply-adds per output value of the plain convolution (taps times channels of a group; Base has 6,144) for
# which this is faster.
LEAST_WORK = 4096

BLOCKS = 64  # blocks transformed at once if no gradient is needed: 50 MB in Base


def wide(weight: Tensor) -> bool:
    """Whether a kernel `(channels, channels / groups, taps)` is wide enough for Fourier transforms to be faster."""
    return weight[0].numel() >= LEAST_WORK


def usable(x: Tensor, weight: Tensor) -> bool:
    """Whether Fourier transforms can compute the convolution of `(batch, frames, channels)`, and are faster."""
    if x.device.type != "cpu" or torch.compiler.is_compiling() or not wide(weight):
        return False
    known = type(x) is Tensor and all(tensor.dtype in (torch.float32, torch.bfloat16) for tensor in (x, weight))
    return known and x.shape[0] * x.shape[1] >= FEWEST_FRAMES


def spectrum(weight: Tensor) -> Tensor:
    """Fourier transform of the weights without gradients, fp32 `(2, frequencies * groups, outputs, inputs)`."""
    _, inputs, taps = weight.shape
    with torch.autocast(weight.device.type, enabled=False):
        transformed = _fourier(taps)[0][:, :taps] @ weight.float().reshape(-1, taps).T
    return transformed.view(2, -1, inputs, inputs)


def convolve(x: Tensor, weight: Tensor, transformed: Tensor | None = None) -> Tensor:
    """Grouped `conv1d` of `(batch, frames, channels)` with padding `taps // 2`, without bias, in fp32.

    `transformed` is what `spectrum` gives, used only without gradients. The extra frame of an even kernel is cut off.
    """
    x, weight = x.float(), weight.float()
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _Convolution.apply(x, weight)
    transformed = spectrum(weight) if transformed is None else transformed
    taps, frames = weight.shape[2], x.shape[1]
    padded, blocks = _padded(x, taps)
    width = max(BLOCKS // len(x), 1)
    parts = []
    with torch.autocast("cpu", enabled=False):
        for first in range(0, blocks, width):
            seen = padded[:, first * (taps + 1) : (min(first + width, blocks) - 1) * (taps + 1) + 2 * taps]
            parts.append(_correlate(seen, transformed, weight.shape)[0])
    return (parts[0] if len(parts) == 1 else torch.cat(parts, 1))[:, :frames]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        transformed = spectrum(weight)
        padded, _ = _padded(x, weight.shape[2])
        with torch.autocast("cpu", enabled=False):
            y, parts = _correlate(padded, transformed, weight.shape)
        ctx.save_for_backward(parts, transformed)
        ctx.shape = weight.shape
        return y[:, : x.shape[1]]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        parts, transformed = ctx.saved_tensors
        channels, _, taps = ctx.shape
        batch, frames, valid = len(gradient), gradient.shape[1], taps + 1
        blocks = parts.shape[1] // (2 * batch)
        forth, back = _fourier(taps)
        to_x, to_weight = None, None
        with torch.autocast("cpu", enabled=False):
            padded = gradient.new_zeros(batch, blocks * valid, channels)
            padded[:, :frames] = gradient
            to_y = _by_frequency(torch.matmul(back.T, padded.view(-1, valid, channels)), ctx.shape)
            if ctx.needs_input_grad[0]:
                to_parts = torch.bmm(to_y, transformed[0])
                to_parts += _turned(torch.bmm(to_y, transformed[1]), back=True)
                to_seen = torch.matmul(forth.T, _by_block(to_parts, ctx.shape)).view(batch, blocks, 2 * taps, channels)
                whole = gradient.new_zeros(batch, (blocks - 1) * valid + 2 * taps, channels)
                for block in range(blocks):
                    whole[:, block * valid : block * valid + 2 * taps] += to_seen[:, block]
                to_x = whole[:, taps // 2 : taps // 2 + frames]
            if ctx.needs_input_grad[1]:
                factors = torch.stack([torch.bmm(to_y.mT, parts), torch.bmm(to_y.mT, _turned(parts))])
                to_weight = (factors.view(len(forth), -1).T @ forth[:, :taps]).view(ctx.shape)
        return to_x, to_weight


@cache
def _fourier(taps: int) -> tuple[Tensor, Tensor]:
    """The transform of `2 * taps` real numbers as a matrix, and the rows of its inverse without wrap-around."""
    size = 2 * taps
    angles = torch.outer(torch.arange(taps + 1), torch.arange(size)).remainder(size).double() * (2 * math.pi / size)
    waves = torch.cat([angles.cos(), -angles.sin()])
    share = torch.full((taps + 1, 1), 2.0 / size, dtype=torch.float64)
    share[0] = share[-1] = 1.0 / size  # all other frequencies stand for their conjugates as well
    return waves.float(), (waves * share.repeat(2, 1)).T[: taps + 1].contiguous().float()


def _padded(x: Tensor, taps: int) -> tuple[Tensor, int]:
    """Frames with zeros around them, `(batch, padded frames, channels)`, and the number of blocks of a row."""
    batch, frames, channels = x.shape
    blocks = -(-frames // (taps + 1))
    padded = x.new_zeros(batch, (blocks - 1) * (taps + 1) + 2 * taps, channels)
    padded[:, taps // 2 : taps // 2 + frames] = x
    return padded, blocks


def _correlate(padded: Tensor, transformed: Tensor, shape: torch.Size) -> tuple[Tensor, Tensor]:
    """Transform, multiply and transform back all blocks of what `_padded` gave at once.

    Returns `(batch, blocks * (taps + 1), channels)`, and the transform of the blocks as `_by_frequency` gives it.
    """
    taps = shape[2]
    forth, back = _fourier(taps)
    seen = padded.unfold(1, 2 * taps, taps + 1).mT  # (batch, blocks, 2 * taps, channels)
    parts = _by_frequency(torch.matmul(forth, seen), shape)
    y = torch.bmm(parts, transformed[0].mT).baddbmm_(_turned(parts), transformed[1].mT)
    return torch.matmul(back, _by_block(y, shape)).view(len(padded), -1, shape[0]), parts


def _by_frequency(parts: Tensor, shape: torch.Size) -> Tensor:
    """`(..., 2 * frequencies, channels)` to `(frequencies * groups, 2 * blocks, channels of a group)`."""
    channels, inputs, taps = shape
    parts = parts.reshape(-1, 2, taps + 1, channels // inputs, inputs)
    return parts.permute(2, 3, 1, 0, 4).reshape((taps + 1) * (channels // inputs), -1, inputs)


def _by_block(parts: Tensor, shape: torch.Size) -> Tensor:
    """`(frequencies * groups, 2 * blocks, channels of a group)` to `(blocks, 2 * frequencies, channels)`."""
    channels, inputs, taps = shape
    parts = parts.view(taps + 1, channels // inputs, 2, -1, inputs)
    return parts.permute(3, 2, 0, 1, 4).reshape(-1, 2 * (taps + 1), channels)


def _turned(parts: Tensor, *, back: bool = False) -> Tensor:
    """Multiply by -i, or by i: `(_, 2 * blocks, _)`, the real parts before the imaginary ones."""
    real, imaginary = parts.chunk(2, 1)
    return torch.cat([-imaginary, real] if back else [imaginary, -real], 1)
