"""The first convolution and its group norm as one convolution, whose weights differ from row to row. On every device.

The norm has one group per channel, so it needs the mean and the variance over time of the output of each filter w. Both
follow from the mean m and the covariance C of the windows that the convolution sees: w·m and wᵀ C w. They are known
before the convolution, so its output is written once, already normalised, and chunk by chunk if it is long. The result
is exact; a pass over the largest tensor of the model is saved.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from wavlm_lightning.encoder.layers import padding_mask

# Windows of a row whose products are summed at once, which bounds the memory of the statistics (40 MiB per row).
BLOCK = 1 << 18


@dataclass(frozen=True)
class FoldedConvolution:
    """A convolution of one input channel that normalises its output, for the rows of one batch."""

    centre: Tensor  # (batch, 1), subtracted from the samples: an offset, which the norm removes, would cost precision
    weight: Tensor  # (batch, channels, kernel)
    bias: Tensor  # (batch, channels, 1)
    stride: int

    @classmethod
    def fold(
        cls, convolution: nn.Conv1d, norm: nn.GroupNorm, waveforms: Tensor, lengths: Tensor | None
    ) -> FoldedConvolution:
        """Fold the norm over `(batch, samples)`, within `lengths` if given, into the weights, differentiably."""
        kernel, stride = convolution.kernel_size[0], convolution.stride[0]
        centre, mean, covariance = window_statistics(waveforms, kernel, stride, lengths)
        filters = convolution.weight[:, 0].double()
        variance = torch.einsum("ck,bkl,cl->bc", filters, covariance, filters).clamp(min=0)
        scale = norm.weight.double() * torch.rsqrt(variance + norm.eps)
        bias = norm.bias.double() - scale * (mean @ filters.T)
        if convolution.bias is not None:
            # The norm removes the bias. Its gradient is zero but must exist: DDP waits for every parameter's gradient.
            bias = bias + 0.0 * convolution.bias
        dtype = convolution.weight.dtype
        weight = scale[:, :, None] * filters
        return cls(centre, weight.to(dtype), bias[:, :, None].to(dtype), stride)

    def rows(self, rows: slice) -> FoldedConvolution:
        return FoldedConvolution(self.centre[rows], self.weight[rows], self.bias[rows], self.stride)

    def __call__(self, waveforms: Tensor, *, time_major: bool = False) -> Tensor:
        """Normalised `(batch, channels, steps)` of `(batch, samples)`; with `time_major`, steps before channels."""
        centred = (waveforms - self.centre).to(self.weight.dtype)
        windows = centred.unfold(1, self.weight.shape[2], self.stride)
        if time_major:
            return torch.baddbmm(self.bias.mT, windows, self.weight.mT)
        return torch.baddbmm(self.bias, self.weight, windows.mT)


def window_statistics(
    waveforms: Tensor, kernel: int, stride: int, lengths: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Statistics of the windows that a convolution sees in `(batch, samples)`, of those within `lengths` if given.

    Returns:
        The mean of each row's valid samples, fp32 `(batch, 1)`; and, with this mean subtracted from the samples, the mean, fp64
        `(batch, kernel)`, and the covariance, fp64 `(batch, kernel, kernel)`, of the windows.
    """
    # fp64: the covariance is a difference of large sums.
    batch, samples = waveforms.shape
    steps = (samples - kernel) // stride + 1
    if lengths is None:
        centre = waveforms.float().mean(1, keepdim=True)
        valid = waveforms.new_full((batch, 1), steps, dtype=torch.float64)
        valid_steps = None
    else:
        known = waveforms.float().masked_fill(padding_mask(lengths, samples), 0.0)
        centre = known.sum(1, keepdim=True) / lengths[:, None]
        valid_steps = (lengths - kernel) // stride + 1
        valid = valid_steps[:, None].double()
    total = waveforms.new_zeros(batch, kernel, dtype=torch.float64)
    products = waveforms.new_zeros(batch, kernel, kernel, dtype=torch.float64)
    for first in range(0, steps, BLOCK):
        last = min(first + BLOCK, steps)
        stretch = waveforms[:, first * stride : (last - 1) * stride + kernel]
        windows = (stretch.double() - centre).unfold(1, kernel, stride)
        if valid_steps is not None:
            windows = windows.masked_fill(padding_mask(valid_steps - first, last - first)[:, :, None], 0.0)
        total = total + windows.sum(1)
        products = products + windows.mT @ windows
    mean = total / valid
    covariance = products / valid[:, :, None] - mean[:, :, None] * mean[:, None, :]
    return centre, mean, covariance
